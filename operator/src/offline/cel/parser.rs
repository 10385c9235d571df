//! Parser: builds the tree of a rule.

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

use crate::offline::cel::CelError;
use crate::offline::cel::expression::{Expression, Operator, Quantifier};
use crate::offline::cel::lexer::{Token, tokenize};

/// Libraries whose functions are called by their full name.
const LIBRARIES: [&str; 2] = ["ip", "format"];

/// Parses a rule.
///
/// # Errors
///
/// When the text is no rule of the part of the language that there is here.
pub(super) fn parse(rule: &str) -> Result<Expression, CelError> {
    let mut parser = Parser { tokens: tokenize(rule)?.into_iter().peekable() };
    let expression = parser.choice()?;
    match parser.tokens.next() {
        None => Ok(expression),
        Some(token) => Err(unexpected("the end", Some(&token))),
    }
}

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
}

impl Parser {
    fn choice(&mut self) -> Result<Expression, CelError> {
        let condition = self.binary(0)?;
        if !self.accept("?") {
            return Ok(condition);
        }
        let one = self.binary(0)?;
        self.expect(":")?;
        let other = self.choice()?;
        Ok(Expression::Choice(condition.into(), one.into(), other.into()))
    }

    /// Parses operators of one precedence and stronger ones.
    fn binary(&mut self, level: usize) -> Result<Expression, CelError> {
        let Some(operators) = Operator::of_level(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some((_, operator)) = operators.iter().find(|(text, _)| self.accept(text)) {
            left = Expression::Binary(left.into(), *operator, self.binary(level + 1)?.into());
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression, CelError> {
        if self.accept("!") {
            return Ok(Expression::Not(self.unary()?.into()));
        }
        if self.accept("-") {
            return Ok(Expression::Negative(self.unary()?.into()));
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expression, CelError> {
        let mut expression = self.primary()?;
        loop {
            if self.accept(".") {
                let name = self.name()?;
                expression = if self.accept("(") {
                    self.method(expression, name)?
                } else {
                    Expression::Field(expression.into(), name)
                };
            } else if self.accept("[") {
                let index = self.choice()?;
                self.expect("]")?;
                expression = Expression::Item(expression.into(), index.into());
            } else {
                return Ok(expression);
            }
        }
    }

    /// Parses the rest of the call of a method, behind its opening parenthesis.
    fn method(&mut self, target: Expression, name: String) -> Result<Expression, CelError> {
        let quantifier = match name.as_str() {
            "all" => Some(Quantifier::All),
            "exists" => Some(Quantifier::Exists),
            "exists_one" => Some(Quantifier::ExistsOne),
            _ => None,
        };
        let mut arguments = self.list(")")?;
        if let Some(quantifier) = quantifier {
            let (Some(condition), Some(Expression::Name(variable)), None) =
                (arguments.pop(), arguments.pop(), arguments.pop())
            else {
                return Err(CelError(format!("the variable of {name} is no name")));
            };
            return Ok(Expression::Macro { quantifier, range: target.into(), variable, condition: condition.into() });
        }
        if let Expression::Name(library) = &target
            && let Some(library) = LIBRARIES.iter().find(|known| *known == library)
        {
            return Ok(Expression::LibraryCall(library, name, arguments));
        }
        arguments.insert(0, target);
        Ok(Expression::Call(name, arguments))
    }

    fn primary(&mut self) -> Result<Expression, CelError> {
        match self.tokens.next() {
            Some(Token::Number(number)) => Ok(Expression::Literal(number.into())),
            Some(Token::Text(text)) => Ok(Expression::Literal(text.into())),
            Some(Token::Symbol("(")) => {
                let inner = self.choice()?;
                self.expect(")")?;
                Ok(inner)
            }
            Some(Token::Symbol("[")) => Ok(Expression::List(self.list("]")?)),
            Some(Token::Name(name)) => match name.as_str() {
                "true" => Ok(Expression::Literal(Value::Bool(true))),
                "false" => Ok(Expression::Literal(Value::Bool(false))),
                "null" => Ok(Expression::Literal(Value::Null)),
                "has" if self.accept("(") => self.has(),
                _ if self.accept("(") => Ok(Expression::Call(name, self.list(")")?)),
                _ => Ok(Expression::Name(name)),
            },
            other => Err(unexpected("a value", other.as_ref())),
        }
    }

    fn has(&mut self) -> Result<Expression, CelError> {
        let field = self.member()?;
        self.expect(")")?;
        match field {
            Expression::Field(object, name) => Ok(Expression::Has(object, name)),
            _ => Err(CelError("has asks for a field".to_owned())),
        }
    }

    /// Parses expressions separated by commas, and the symbol behind them.
    fn list(&mut self, end: &'static str) -> Result<Vec<Expression>, CelError> {
        let mut items = Vec::new();
        if self.accept(end) {
            return Ok(items);
        }
        loop {
            items.push(self.choice()?);
            if self.accept(end) {
                return Ok(items);
            }
            self.expect(",")?;
        }
    }

    fn name(&mut self) -> Result<String, CelError> {
        match self.tokens.next() {
            Some(Token::Name(name)) => Ok(name),
            other => Err(unexpected("a name", other.as_ref())),
        }
    }

    /// Takes the next token when it has this text.
    fn accept(&mut self, text: &str) -> bool {
        self.tokens
            .next_if(|token| match token {
                Token::Symbol(symbol) => *symbol == text,
                Token::Name(name) => name == text,
                Token::Number(_) | Token::Text(_) => false,
            })
            .is_some()
    }

    fn expect(&mut self, symbol: &str) -> Result<(), CelError> {
        if self.accept(symbol) { Ok(()) } else { Err(unexpected(symbol, self.tokens.peek())) }
    }
}

fn unexpected(expected: &str, token: Option<&Token>) -> CelError {
    let found = match token {
        None => "the end".to_owned(),
        Some(Token::Name(text) | Token::Text(text)) => text.clone(),
        Some(Token::Number(number)) => number.to_string(),
        Some(Token::Symbol(symbol)) => (*symbol).to_owned(),
    };
    CelError(format!("expected {expected}, not {found}"))
}
