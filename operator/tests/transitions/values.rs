//! Values of fields: from the schema where it gives them, from `values.yaml` otherwise.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::path::{ends_with, last_name, parent, set};
use crate::schema::Field;

const TABLE: &str = include_str!("values.yaml");

/// Rows of `values.yaml`.
pub(crate) struct Table(Vec<Row>);

/// Values of the fields whose paths have one of these ends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Row {
    pub(crate) fields: Vec<String>,
    valid: Option<Vec<Value>>,
    invalid: Vec<Value>,
    failing: Vec<Value>,
    /// Siblings that any valid value goes with.
    with: serde_json::Map<String, Value>,
    /// Value of an object that is made because a field of it is set.
    sample: Option<Value>,
    /// Whether the value is taken back at once, because it makes what follows slow.
    pub(crate) fleeting: bool,
}

/// Change of one field.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Edit {
    pub(crate) path: String,
    /// Key, for an entry of a map.
    pub(crate) entry: String,
    /// New value; `None` removes the field.
    pub(crate) value: Option<Value>,
    /// Fields of the object around it that are set too, or removed where they are null.
    pub(crate) with: serde_json::Map<String, Value>,
    /// Reason of the condition that it leads to, and what its message has to say.
    pub(crate) reason: Option<String>,
    pub(crate) says: Option<String>,
}

impl Edit {
    /// Returns the change of a field to this value.
    pub(crate) fn to(path: &str, value: Value) -> Self {
        Self { path: path.to_owned(), value: Some(value), ..Self::default() }
    }

    /// Returns the removal of a field.
    pub(crate) fn removal(path: &str) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    /// Makes a change of a value of the table: the value, or an object with `set`.
    fn of(path: &str, value: &Value, row: &Row) -> Self {
        let mut edit = Self::to(path, value.clone());
        edit.with.clone_from(&row.with);
        let is_detailed = |fields: &serde_json::Map<String, Value>| fields.contains_key("set");
        if let Some(fields) = value.as_object().filter(|fields| is_detailed(fields)) {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
            edit.value = fields.get("set").filter(|value| !value.is_null()).cloned();
            edit.entry = text("entry").unwrap_or_default();
            (edit.reason, edit.says) = (text("reason"), text("says"));
            if let Some(with) = fields.get("with").and_then(Value::as_object) {
                edit.with.extend(with.clone());
            }
        }
        edit
    }

    /// Changes a spec.
    pub(crate) fn apply(&self, spec: &mut Value, table: &Table) {
        let sample = |path: &str| table.sample(path);
        set(spec, &self.path, &self.entry, self.value.clone(), &sample);
        let around = parent(&self.path);
        for (name, value) in &self.with {
            let path = if around.is_empty() { name.clone() } else { format!("{around}.{name}") };
            set(spec, &path, "", Some(value.clone()).filter(|value| !value.is_null()), &sample);
        }
    }

    /// Returns what the message of a refusal has to say: the name of the field.
    pub(crate) fn named(&self) -> String {
        self.says.clone().unwrap_or_else(|| last_name(&self.path).to_owned())
    }
}

impl Table {
    /// Reads the table.
    pub(crate) fn read() -> Self {
        Self(serde_saphyr::from_str(TABLE).unwrap())
    }

    /// Returns the row of a path: the one with the longest end of it.
    pub(crate) fn row(&self, path: &str) -> Option<&Row> {
        let length = |row: &&Row| row.fields.iter().filter(|end| ends_with(path, end)).map(String::len).max();
        self.0.iter().filter(|row| length(row).is_some()).max_by_key(length)
    }

    /// Returns the ends of paths that belong to no field.
    pub(crate) fn unused(&self, fields: &[Field]) -> Vec<&str> {
        let ends = self.0.iter().flat_map(|row| &row.fields).map(String::as_str);
        ends.filter(|end| !fields.iter().any(|field| ends_with(&field.path, end))).collect()
    }

    /// Returns what an object or an element of a list is made of.
    fn sample(&self, path: &str) -> Option<Value> {
        let row = self.row(path)?;
        row.sample.clone().or_else(|| row.valid.as_ref()?.first().cloned())
    }

    /// Returns the siblings that any value of a list goes with: its own, and those of its elements.
    pub(crate) fn with(&self, list: &str) -> serde_json::Map<String, Value> {
        let rows = [self.row(list), self.row(&format!("{list}[]"))];
        rows.into_iter().flatten().flat_map(|row| row.with.clone()).collect()
    }

    /// Returns the elements that a list may have.
    pub(crate) fn elements(&self, list: &str) -> Vec<Value> {
        self.row(&format!("{list}[]")).and_then(|row| row.valid.clone()).unwrap_or_default()
    }

    /// Returns valid values of a leaf; `None` where neither the schema nor the table has any.
    pub(crate) fn valid(&self, field: &Field) -> Option<Vec<Edit>> {
        let row = self.row(&field.path).cloned().unwrap_or_default();
        let values = row.valid.clone().or_else(|| values_of(&field.schema))?;
        Some(values.iter().map(|value| Edit::of(&field.path, value, &row)).collect())
    }

    /// Returns values of a field that the API server refuses.
    pub(crate) fn invalid(&self, field: &Field) -> Vec<Edit> {
        let row = self.row(&field.path).cloned().unwrap_or_default();
        let with = Row { with: serde_json::Map::new(), ..row };
        let of_schema = refused_by(&field.schema);
        with.invalid.iter().chain(&of_schema).map(|value| Edit::of(&field.path, value, &with)).collect()
    }

    /// Returns values of a field that lead to an error later.
    pub(crate) fn failing(&self, field: &Field) -> Vec<Edit> {
        let row = self.row(&field.path).cloned().unwrap_or_default();
        row.failing.iter().map(|value| Edit::of(&field.path, value, &row)).collect()
    }
}

/// Returns values that a schema gives by itself: those of an enumeration, or the ends of a range and one between.
fn values_of(schema: &Value) -> Option<Vec<Value>> {
    if let Some(values) = schema["enum"].as_array() {
        return Some(values.clone());
    }
    if schema["type"] == "boolean" {
        return Some(vec![json!(true), json!(false)]);
    }
    let (minimum, maximum) = (number(&schema["minimum"])?, number(&schema["maximum"])?);
    Some(vec![json!(minimum), json!(maximum), json!(minimum + (maximum - minimum).min(30) / 3)])
}

/// Returns values that a schema refuses.
fn refused_by(schema: &Value) -> Vec<Value> {
    let mut values = Vec::new();
    values.extend(number(&schema["minimum"]).map(|minimum| json!(minimum - 1)));
    values.extend(number(&schema["maximum"]).map(|maximum| json!(maximum + 1)));
    if schema["enum"].is_array() {
        values.push(json!("Perhaps"));
    }
    if let Some(length) = number(&schema["maxLength"]) {
        values.push(json!("x".repeat(usize::try_from(length + 1).unwrap_or_default())));
    }
    // Of another type.
    values.push(match schema["type"].as_str() {
        Some("string" | "object") => json!(["one"]),
        _ => json!({"one": 1}),
    });
    values
}

/// Returns a whole number, which the schema may write with a point.
fn number(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "limits of fields are whole numbers below 2^53")]
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

/// Replaces `$w` by the name of a world, and `$cluster-dns` by the address of its cluster DNS.
pub(crate) fn fill_in(value: &mut Value, world: &str, cluster_dns: &str) {
    match value {
        Value::String(text) => *text = text.replace("$w", world).replace("$cluster-dns", cluster_dns),
        Value::Array(elements) => elements.iter_mut().for_each(|element| fill_in(element, world, cluster_dns)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill_in(field, world, cluster_dns)),
        _ => {}
    }
}
