//! Functions that rules call: those of CEL, and those that Kubernetes adds.

use std::net::IpAddr;

use dnstier_crds::v1alpha1::Duration;
use ipnet::IpNet;
use regex::Regex;
use serde_json::Value;

use crate::offline::cel::CelError;
use crate::offline::cel::names::NameFormat;
use crate::offline::cel::quantity;
use crate::offline::cel::value::CelValue;

/// Calls a function. A method gets its object as the first argument.
///
/// # Errors
///
/// When there is no such function for these arguments, or when it fails.
pub(super) fn call(name: &str, arguments: &[CelValue]) -> Result<CelValue, CelError> {
    match (name, arguments) {
        ("size", [value]) => size(value).map(CelValue::json),
        ("string", [value]) => string(value).map(CelValue::json),
        ("type", [value]) => Ok(CelValue::Type(value.type_name())),
        ("duration", [text]) => {
            let duration: Duration = parse(text, "duration", |text| text.parse().ok())?;
            Ok(CelValue::Duration(duration.seconds()))
        }
        ("matches", [text, pattern]) => {
            let pattern = Regex::new(pattern.as_text()?).map_err(|error| CelError(error.to_string()))?;
            Ok(CelValue::json(pattern.is_match(text.as_text()?)))
        }
        ("startsWith", [text, start]) => Ok(CelValue::json(text.as_text()?.starts_with(start.as_text()?))),
        ("endsWith", [text, end]) => Ok(CelValue::json(text.as_text()?.ends_with(end.as_text()?))),
        ("split", [text, separator]) => {
            Ok(CelValue::json(text.as_text()?.split(separator.as_text()?).map(Value::from).collect::<Vec<_>>()))
        }
        ("lowerAscii", [text]) => Ok(CelValue::json(text.as_text()?.to_ascii_lowercase())),
        ("isIP", [text]) => Ok(CelValue::json(parse_ip(text.as_text()?).is_some())),
        ("ip", [text]) => parse(text, "IP address", parse_ip).map(CelValue::Ip),
        ("isGlobalUnicast", [CelValue::Ip(address)]) => Ok(CelValue::json(is_global_unicast(*address))),
        ("isCIDR", [text]) => Ok(CelValue::json(parse_network(text.as_text()?).is_some())),
        ("cidr", [text]) => parse(text, "network", parse_network).map(CelValue::Network),
        ("masked", [CelValue::Network(network)]) => Ok(CelValue::Network(network.trunc())),
        ("containsIP", [CelValue::Network(network), text]) => {
            let address = parse(text, "IP address", parse_ip)?;
            Ok(CelValue::json(network.contains(&address)))
        }
        ("isQuantity", [text]) => Ok(CelValue::json(quantity::parse(text.as_text()?).is_some())),
        ("quantity", [text]) => parse(text, "quantity", quantity::parse).map(CelValue::Quantity),
        ("isLessThan", [CelValue::Quantity(one), CelValue::Quantity(other)]) => Ok(CelValue::json(one < other)),
        ("isGreaterThan", [CelValue::Quantity(one), CelValue::Quantity(other)]) => Ok(CelValue::json(one > other)),
        ("validate", [CelValue::Format(format), text]) => Ok(CelValue::Problems(!format.matches(text.as_text()?))),
        ("hasValue", [CelValue::Problems(are_there)]) => Ok(CelValue::json(*are_there)),
        _ => Err(CelError(format!("unknown function {name}"))),
    }
}

/// Calls a function of a library.
///
/// # Errors
///
/// When there is no such function for these arguments.
pub(super) fn call_of_library(library: &str, name: &str, arguments: &[CelValue]) -> Result<CelValue, CelError> {
    let unknown = || CelError(format!("unknown function {library}.{name}"));
    match (library, name, arguments) {
        ("ip", "isCanonical", [text]) => {
            let address = parse(text, "IP address", parse_ip)?;
            Ok(CelValue::json(address.to_string() == text.as_text()?))
        }
        ("format", _, []) => NameFormat::named(name).map(CelValue::Format).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

/// Returns the value of a type that has this name; `None` for any other name.
pub(super) fn type_named(name: &str) -> Option<CelValue> {
    ["bool", "double", "int", "string", "list", "map"].into_iter().find(|known| *known == name).map(CelValue::Type)
}

fn size(value: &CelValue) -> Result<u64, CelError> {
    let size = match value {
        CelValue::Json(Value::String(text)) => text.chars().count(),
        CelValue::Json(Value::Array(items)) => items.len(),
        CelValue::Json(Value::Object(map)) => map.len(),
        other => return Err(CelError(format!("{} has no size", other.type_name()))),
    };
    Ok(size as u64)
}

fn string(value: &CelValue) -> Result<String, CelError> {
    match value {
        CelValue::Json(Value::String(text)) => Ok(text.clone()),
        CelValue::Json(scalar @ (Value::Bool(_) | Value::Number(_))) => Ok(scalar.to_string()),
        CelValue::Ip(address) => Ok(address.to_string()),
        CelValue::Network(network) => Ok(network.to_string()),
        other => Err(CelError(format!("{} has no text", other.type_name()))),
    }
}

fn parse<T>(value: &CelValue, kind: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, CelError> {
    let text = value.as_text()?;
    parse(text).ok_or_else(|| CelError(format!("{text:?} is no {kind}")))
}

/// Parses an address. The API server takes neither a zone nor an IPv4-mapped address for one.
fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address| !is_mapped(*address))
}

/// Parses a network, as [`parse_ip`] an address.
fn parse_network(text: &str) -> Option<IpNet> {
    text.parse().ok().filter(|network: &IpNet| !is_mapped(network.addr()))
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// Returns whether an address is one of a single interface, of whatever reach, and not link-local.
fn is_global_unicast(address: IpAddr) -> bool {
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !is_special
        && match address {
            IpAddr::V4(address) => !address.is_broadcast() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        }
}
