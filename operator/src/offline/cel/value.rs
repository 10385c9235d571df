//! Values in a rule.

use std::cmp::Ordering;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::offline::cel::CelError;
use crate::offline::cel::names::NameFormat;

/// Value in a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CelValue {
    /// Value of JSON.
    Json(Value),
    /// Type of a value.
    Type(&'static str),
    /// Duration in seconds.
    Duration(u32),
    /// Quantity in thousand-millionths.
    Quantity(i128),
    /// IP address.
    Ip(IpAddr),
    /// Network.
    Network(IpNet),
    /// Format of names.
    Format(NameFormat),
    /// Optional list of problems, reduced to whether there is one.
    Problems(bool),
}

impl CelValue {
    /// Returns the value of JSON.
    pub(super) fn json(value: impl Into<Value>) -> Self {
        Self::Json(value.into())
    }

    /// Returns the name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Json(Value::Null) => "null",
            Self::Json(Value::Bool(_)) => "bool",
            Self::Json(Value::Number(number)) if number.is_f64() => "double",
            Self::Json(Value::Number(_)) => "int",
            Self::Json(Value::String(_)) => "string",
            Self::Json(Value::Array(_)) => "list",
            Self::Json(Value::Object(_)) => "map",
            Self::Type(_) => "type",
            Self::Duration(_) => "duration",
            Self::Quantity(_) => "quantity",
            Self::Ip(_) => "ip",
            Self::Network(_) => "cidr",
            Self::Format(_) => "format",
            Self::Problems(_) => "optional",
        }
    }

    /// Returns the truth value.
    ///
    /// # Errors
    ///
    /// When the value is no truth value.
    pub(super) fn into_bool(self) -> Result<bool, CelError> {
        match self {
            Self::Json(Value::Bool(value)) => Ok(value),
            other => Err(CelError(format!("expected bool, not {}", other.type_name()))),
        }
    }

    /// Returns the text.
    ///
    /// # Errors
    ///
    /// When the value is no text.
    pub(super) fn as_text(&self) -> Result<&str, CelError> {
        match self {
            Self::Json(Value::String(text)) => Ok(text),
            other => Err(CelError(format!("expected string, not {}", other.type_name()))),
        }
    }

    /// Returns whether two values are equal. Numbers are equal whatever their type is.
    pub(super) fn is_equal(&self, other: &Self) -> bool {
        self == other || self.compare(other) == Ok(Ordering::Equal)
    }

    /// Compares two values of one type.
    ///
    /// # Errors
    ///
    /// When the values have no order.
    pub(super) fn compare(&self, other: &Self) -> Result<Ordering, CelError> {
        let order = match (self, other) {
            (Self::Json(Value::Number(one)), Self::Json(Value::Number(other))) => {
                match (one.as_i64(), other.as_i64()) {
                    (Some(one), Some(other)) => Some(one.cmp(&other)),
                    _ => one.as_f64().zip(other.as_f64()).and_then(|(one, other)| one.partial_cmp(&other)),
                }
            }
            (Self::Json(Value::String(one)), Self::Json(Value::String(other))) => Some(one.cmp(other)),
            (Self::Duration(one), Self::Duration(other)) => Some(one.cmp(other)),
            (Self::Quantity(one), Self::Quantity(other)) => Some(one.cmp(other)),
            _ => None,
        };
        order.ok_or_else(|| CelError(format!("{} and {} have no order", self.type_name(), other.type_name())))
    }
}
