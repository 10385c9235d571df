//! Tree of a rule.

use serde_json::Value;

/// Expression of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    /// Literal value.
    Literal(Value),
    /// Variable, or the name of a type.
    Name(String),
    /// List of expressions.
    List(Vec<Self>),
    /// Field of an object: `a.b`.
    Field(Box<Self>, String),
    /// Item of a list or value of a map: `a[b]`.
    Item(Box<Self>, Box<Self>),
    /// Whether an object has a field: `has(a.b)`.
    Has(Box<Self>, String),
    /// Call of a function: `f(a)`, or `a.f(b)` with `a` as the first argument.
    Call(String, Vec<Self>),
    /// Call of a function of a library: `ip.f(a)`.
    LibraryCall(&'static str, String, Vec<Self>),
    /// Look at every item of a list, or every key of a map.
    Macro {
        /// Number of items that have to satisfy the condition.
        quantifier: Quantifier,
        /// List or map.
        range: Box<Self>,
        /// Name of the item in the condition.
        variable: String,
        /// Condition.
        condition: Box<Self>,
    },
    /// Negation: `!a`.
    Not(Box<Self>),
    /// Negative number: `-a`.
    Negative(Box<Self>),
    /// Two expressions and the operator between them.
    Binary(Box<Self>, Operator, Box<Self>),
    /// Choice: `a ? b : c`.
    Choice(Box<Self>, Box<Self>, Box<Self>),
}

/// Number of items that have to satisfy the condition of a macro.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    /// Every item.
    All,
    /// At least one item.
    Exists,
    /// Exactly one item.
    ExistsOne,
}

/// Operator between two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    /// Either is true.
    Or,
    /// Both are true.
    And,
    /// Both are equal.
    Equal,
    /// Both are not equal.
    NotEqual,
    /// The left one is less.
    Less,
    /// The left one is less or equal.
    LessOrEqual,
    /// The left one is greater.
    Greater,
    /// The left one is greater or equal.
    GreaterOrEqual,
    /// The right one contains the left one.
    In,
    /// Sum, or one text after the other.
    Plus,
    /// Difference.
    Minus,
}

impl Operator {
    /// Returns the operators of one precedence, the weakest first; `None` beyond the strongest.
    pub(super) fn of_level(level: usize) -> Option<&'static [(&'static str, Self)]> {
        const LEVELS: [&[(&str, Operator)]; 4] = [
            &[("||", Operator::Or)],
            &[("&&", Operator::And)],
            &[
                ("==", Operator::Equal),
                ("!=", Operator::NotEqual),
                ("<", Operator::Less),
                ("<=", Operator::LessOrEqual),
                (">", Operator::Greater),
                (">=", Operator::GreaterOrEqual),
                ("in", Operator::In),
            ],
            &[("+", Operator::Plus), ("-", Operator::Minus)],
        ];
        LEVELS.get(level).copied()
    }
}
