//! Evaluation: from the tree of a rule and the value of a field to the value of the rule.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use crate::offline::cel::CelError;
use crate::offline::cel::expression::{Expression, Operator, Quantifier};
use crate::offline::cel::functions::{call, call_of_library, type_named};
use crate::offline::cel::value::CelValue;

/// Evaluates a rule on the value of a field.
///
/// # Errors
///
/// When a field is missing that the rule reads, or when types do not fit.
pub(super) fn evaluate(expression: &Expression, value: &Value) -> Result<CelValue, CelError> {
    Scope { name: "self", value, outer: None }.evaluate(expression)
}

/// Variable, and those around it.
struct Scope<'a> {
    name: &'a str,
    value: &'a Value,
    outer: Option<&'a Self>,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<&Value> {
        if self.name == name { Some(self.value) } else { self.outer?.find(name) }
    }

    fn evaluate(&self, expression: &Expression) -> Result<CelValue, CelError> {
        match expression {
            Expression::Literal(value) => Ok(CelValue::Json(value.clone())),
            Expression::Name(name) => match self.find(name) {
                Some(value) => Ok(CelValue::Json(value.clone())),
                None => type_named(name).ok_or_else(|| CelError(format!("unknown name {name}"))),
            },
            Expression::List(items) => {
                let items: Result<Vec<Value>, CelError> = items.iter().map(|item| self.evaluate_json(item)).collect();
                Ok(CelValue::Json(Value::Array(items?)))
            }
            Expression::Field(object, name) => {
                let object = self.evaluate_json(object)?;
                object.get(name).cloned().map(CelValue::Json).ok_or_else(|| CelError(format!("no such key: {name}")))
            }
            Expression::Item(range, index) => {
                let (range, index) = (self.evaluate_json(range)?, self.evaluate_json(index)?);
                let item = match &index {
                    Value::String(key) => range.get(key),
                    other => other.as_u64().and_then(|index| range.get(usize::try_from(index).ok()?)),
                };
                item.cloned().map(CelValue::Json).ok_or_else(|| CelError(format!("no such key: {index}")))
            }
            Expression::Has(object, name) => Ok(CelValue::json(self.evaluate_json(object)?.get(name).is_some())),
            Expression::Call(name, arguments) => call(name, &self.evaluate_all(arguments)?),
            Expression::LibraryCall(library, name, arguments) => {
                call_of_library(library, name, &self.evaluate_all(arguments)?)
            }
            Expression::Macro { quantifier, range, variable, condition } => {
                let range = self.evaluate_json(range)?;
                self.quantify(*quantifier, &range, variable, condition).map(CelValue::json)
            }
            Expression::Not(inner) => Ok(CelValue::json(!self.evaluate(inner)?.into_bool()?)),
            Expression::Negative(inner) => match self.evaluate_json(inner)?.as_i64().and_then(i64::checked_neg) {
                Some(number) => Ok(CelValue::json(number)),
                None => Err(CelError("only a number can be negative".to_owned())),
            },
            Expression::Binary(left, operator, right) => self.evaluate_binary(left, *operator, right),
            Expression::Choice(condition, one, other) => {
                self.evaluate(if self.evaluate(condition)?.into_bool()? { one } else { other })
            }
        }
    }

    fn evaluate_all(&self, expressions: &[Expression]) -> Result<Vec<CelValue>, CelError> {
        expressions.iter().map(|expression| self.evaluate(expression)).collect()
    }

    fn evaluate_json(&self, expression: &Expression) -> Result<Value, CelError> {
        match self.evaluate(expression)? {
            CelValue::Json(value) => Ok(value),
            other => Err(CelError(format!("{} has no fields", other.type_name()))),
        }
    }

    fn evaluate_bool(&self, expression: &Expression) -> Result<bool, CelError> {
        self.evaluate(expression)?.into_bool()
    }

    fn evaluate_binary(&self, left: &Expression, operator: Operator, right: &Expression) -> Result<CelValue, CelError> {
        // One side decides alone, also when the other fails.
        let decisive = match operator {
            Operator::Or => Some(true),
            Operator::And => Some(false),
            _ => None,
        };
        if let Some(decisive) = decisive {
            let left = self.evaluate_bool(left);
            if left == Ok(decisive) {
                return Ok(CelValue::json(decisive));
            }
            let right = self.evaluate_bool(right);
            return if right == Ok(decisive) { right } else { left.and(right) }.map(CelValue::json);
        }
        let (left, right) = (self.evaluate(left)?, self.evaluate(right)?);
        let order = || left.compare(&right);
        let verdict = match operator {
            Operator::Equal => left.is_equal(&right),
            Operator::NotEqual => !left.is_equal(&right),
            Operator::Less => order()? == Ordering::Less,
            Operator::LessOrEqual => order()? != Ordering::Greater,
            Operator::Greater => order()? == Ordering::Greater,
            Operator::GreaterOrEqual => order()? != Ordering::Less,
            Operator::In => is_in(&left, &right)?,
            Operator::Plus | Operator::Minus => return add(&left, operator, &right),
            Operator::Or | Operator::And => false,
        };
        Ok(CelValue::json(verdict))
    }

    /// Returns whether enough items of a list, or keys of a map, satisfy a condition. An item for which the condition
    /// fails matters only when the others do not decide.
    fn quantify(
        &self,
        quantifier: Quantifier,
        range: &Value,
        variable: &str,
        condition: &Expression,
    ) -> Result<bool, CelError> {
        let items: Vec<Value> = match range {
            Value::Array(items) => items.clone(),
            Value::Object(map) => map.keys().cloned().map(Value::String).collect(),
            other => return Err(CelError(format!("{} has no items", CelValue::json(other.clone()).type_name()))),
        };
        let verdicts: Vec<Result<bool, CelError>> = items
            .iter()
            .map(|item| Scope { name: variable, value: item, outer: Some(self) }.evaluate_bool(condition))
            .collect();
        let failure = verdicts.iter().find_map(|verdict| verdict.clone().err());
        let satisfied = verdicts.iter().filter(|verdict| **verdict == Ok(true)).count();
        let violated = verdicts.iter().filter(|verdict| **verdict == Ok(false)).count();
        match (quantifier, failure) {
            (Quantifier::All, _) if violated > 0 => Ok(false),
            (Quantifier::Exists, _) if satisfied > 0 => Ok(true),
            (_, Some(failure)) => Err(failure),
            (Quantifier::All, None) => Ok(true),
            (Quantifier::Exists, None) => Ok(false),
            (Quantifier::ExistsOne, None) => Ok(satisfied == 1),
        }
    }
}

fn is_in(item: &CelValue, range: &CelValue) -> Result<bool, CelError> {
    match range {
        CelValue::Json(Value::Array(items)) => {
            Ok(items.iter().any(|other| CelValue::Json(other.clone()).is_equal(item)))
        }
        CelValue::Json(Value::Object(map)) => Ok(map.contains_key(item.as_text()?)),
        other => Err(CelError(format!("nothing is in {}", other.type_name()))),
    }
}

/// Returns the sum or the difference of two numbers, or one text after the other.
fn add(left: &CelValue, operator: Operator, right: &CelValue) -> Result<CelValue, CelError> {
    let number = |value: &CelValue| match value {
        CelValue::Json(Value::Number(number)) => number.as_i64(),
        _ => None,
    };
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        let sum = if operator == Operator::Plus { left.checked_add(right) } else { left.checked_sub(right) };
        return sum.map(|sum| CelValue::json(Number::from(sum))).ok_or_else(|| CelError("overflow".to_owned()));
    }
    if operator == Operator::Plus {
        return Ok(CelValue::json(format!("{}{}", left.as_text()?, right.as_text()?)));
    }
    Err(CelError(format!("{} cannot be subtracted", right.type_name())))
}
