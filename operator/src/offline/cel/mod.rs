//! The part of CEL (Common Expression Language) in which the rules of the `DnsTier` are written, with the functions of
//! Kubernetes that they call.
//!
//! The rules themselves are those of the CustomResourceDefinition: nothing here knows what a valid tier is. A rule that
//! uses more of the language than there is here cannot be parsed, and a test parses all of them.
//!
//! - `lexer`, `expression`, `parser`: from the text of a rule to its tree.
//! - `value`, `quantity`, `names`, `functions`: values, and what can be called.
//! - `evaluation`: from a tree and the value of a field to a verdict.

mod evaluation;
mod expression;
mod functions;
mod lexer;
mod names;
mod parser;
mod quantity;
mod value;

use serde_json::Value;

use crate::offline::cel::evaluation::evaluate;
use crate::offline::cel::parser::parse;

/// Failure of a rule: it cannot be parsed, or has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct CelError(String);

/// Returns whether a value satisfies a rule.
///
/// # Errors
///
/// When the rule cannot be parsed, or fails, such as one that reads a field that is not there.
pub(super) fn is_satisfied(rule: &str, value: &Value) -> Result<bool, CelError> {
    evaluate(&parse(rule)?, value)?.into_bool()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(rule: &str, value: Value) -> Result<bool, String> {
        is_satisfied(rule, &value).map_err(|error| error.to_string())
    }

    #[test]
    fn operators_bind_as_the_language_says() {
        for rule in [
            "true || false && false",
            "!false && true",
            "1 < 2 == true",
            "self.a + 1 == 3 ? true : false",
            "false ? true : 1 in [1, 2]",
            "-1 < 0",
            "'a' + \"b\" == 'ab'",
            "(true || true) && !(false)",
        ] {
            assert_eq!(check(rule, json!({"a": 2})), Ok(true), "{rule}");
        }
    }

    #[test]
    fn one_side_decides_although_the_other_fails() {
        for rule in ["self.x || true", "true || self.x", "!(self.x && false)", "!has(self.x) || self.x == 1"] {
            assert_eq!(check(rule, json!({})), Ok(true), "{rule}");
        }
        assert_eq!(check("self.x || false", json!({})), Err("no such key: x".to_owned()));
    }

    #[test]
    fn macros_look_at_the_items_of_lists_and_at_the_keys_of_maps() {
        let value = || json!({"list": [1, 2, 3], "map": {"one": 1, "two": 2}});
        for (rule, expected) in [
            ("self.list.all(item, item > 0)", true),
            ("self.list.exists(item, item > 3)", false),
            ("self.list.exists_one(item, item > 2)", true),
            ("self.list.exists_one(item, item > 1)", false),
            ("self.map.all(key, self.map[key] > 0)", true),
            ("'one' in self.map && !('three' in self.map)", true),
            ("size(self.list) == 3 && self.list[0] == 1", true),
            ("has(self.map.one) && !has(self.map.three)", true),
        ] {
            assert_eq!(check(rule, value()), Ok(expected), "{rule}");
        }
    }

    #[test]
    fn functions_of_kubernetes_say_what_the_api_server_says() {
        for (rule, expected) in [
            ("isIP('10.0.0.1') && isIP('fd00::1')", true),
            ("isIP('fe80::1%eth0') || isIP('::ffff:10.0.0.1') || isIP('10.0.0.01') || isIP('x')", false),
            ("ip.isCanonical('fd00::1') && !ip.isCanonical('FD00::1') && !ip.isCanonical('fd00:0::1')", true),
            ("ip('8.8.8.8').isGlobalUnicast() && ip('10.0.0.1').isGlobalUnicast()", true),
            ("ip('127.0.0.1').isGlobalUnicast() || ip('224.0.0.1').isGlobalUnicast()", false),
            ("ip('255.255.255.255').isGlobalUnicast() || ip('fe80::1').isGlobalUnicast()", false),
            ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP('fd00::1')", true),
            ("isCIDR('10.0.0.1/8') && string(cidr('10.0.0.1/8').masked()) == '10.0.0.0/8'", true),
            ("isCIDR('10.0.0.0') || isCIDR('::ffff:10.0.0.0/104')", false),
            ("isQuantity('1.5Gi') && isQuantity('100m') && isQuantity('1e3') && !isQuantity('64MB')", true),
            ("quantity('1000m').isLessThan(quantity('1Ki')) && quantity('1Ki').isGreaterThan(quantity('1k'))", true),
            ("duration('1h30m') > duration('89m') && duration('90m') == duration('1h30m')", true),
            ("'a.b'.split('.').all(label, size(label) <= 1)", true),
            ("'Example.com/X'.lowerAscii() == 'example.com/x'", true),
            ("format.dns1123Label().validate('a.b').hasValue()", true),
            ("format.dns1123Subdomain().validate('a.b').hasValue()", false),
            ("format.qualifiedName().validate('a/b/c').hasValue()", true),
            ("format.labelValue().validate('').hasValue()", false),
            ("type(self) == int", true),
            ("type('x') == string && type(1) != string", true),
        ] {
            assert_eq!(check(rule, json!(1)), Ok(expected), "{rule}");
        }
    }

    #[test]
    fn a_rule_that_uses_more_of_the_language_says_what() {
        for (rule, said) in [
            ("self.sort()", "unknown function sort"),
            ("self matches 'x'", "expected the end, not matches"),
            ("self.all(1, true)", "the variable of all is no name"),
            ("'x", "the text 'x has no end"),
            ("self ~ 1", "unexpected character ~"),
        ] {
            assert_eq!(check(rule, json!([1])), Err(said.to_owned()), "{rule}");
        }
    }
}
