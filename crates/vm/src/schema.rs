//! For tests: what VMMs publish of their APIs (OpenAPI), of which no copy is kept here.
//!
//! `HULL_VMM_SCHEMAS` names the directory with the documents; without it that is `shared/reference` beside the checkout.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use serde_norway::Value as Yaml;

use crate::stand_in::api::AskedFor;

/// One document.
#[derive(Debug)]
pub(crate) struct Schema(Value);

impl Schema {
    /// Nothing, and says so, where the document is not there.
    pub(crate) fn of(file: &str) -> Option<Self> {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
        let dir = std::env::var_os("HULL_VMM_SCHEMAS").map_or(beside, PathBuf::from);
        let path = dir.join(file);
        if !path.exists() {
            eprintln!("skipped: there is no {}", path.display());
            return None;
        }
        let text = std::fs::read_to_string(path).unwrap();
        Some(Self(json(serde_norway::from_str(&text).unwrap())))
    }

    /// The request is one of those that there are, and its body as it should be. All paths begin with `base`, of which
    /// the document does not speak.
    pub(crate) fn check_request(&self, base: &str, request: &AskedFor) {
        let path = request.path.strip_prefix(base).unwrap();
        let operation = &self.0["paths"][path][request.method.to_lowercase()];
        assert!(operation.is_object(), "{request:?} is not in the schema");
        // OpenAPI 3 has the body apart; Swagger 2 has it among the parameters.
        let apart = &operation["requestBody"]["content"]["application/json"]["schema"];
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let mut among = parameters.filter(|parameter| parameter["in"] == "body");
        let schema = match apart {
            Value::Null => among.next().map(|parameter| &parameter["schema"]),
            apart => Some(apart),
        };
        match (schema, &request.body) {
            (Some(schema), Some(body)) => self.check_value(schema, body, path),
            (None, None) => {}
            (schema, body) => panic!("{path} has {body:?}, and should have {schema:?}"),
        }
    }

    /// `value` is as the named definition says.
    pub(crate) fn check(&self, definition: &str, value: &Value) {
        let schema = &self.0["definitions"][definition];
        assert!(schema.is_object(), "there is no definition of {definition}");
        self.check_value(schema, value, definition);
    }

    fn check_value(&self, schema: &Value, value: &Value, place: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let target = self.0.pointer(pointer);
            let target = target.unwrap_or_else(|| panic!("{reference} leads nowhere"));
            return self.check_value(target, value, place);
        }
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(
                allowed.contains(value),
                "{place}: {value} is none of {allowed:?}"
            );
        }
        let fits = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            _ => true,
        };
        assert!(fits, "{place}: {value} is not of type {}", schema["type"]);
        if let Some(number) = value.as_i64() {
            let at_least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
            let at_most = schema["maximum"].as_i64().unwrap_or(i64::MAX);
            assert!((at_least..=at_most).contains(&number), "{place}: {number}");
        }
        for element in value.as_array().into_iter().flatten() {
            self.check_value(&schema["items"], element, place);
        }
        let Some(fields) = value.as_object() else {
            return;
        };
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().unwrap();
            assert!(fields.contains_key(name), "{place}: {name} is missing");
        }
        for (name, field) in fields {
            let of_field = &schema["properties"][name];
            assert!(of_field.is_object(), "{place}: there is no {name}");
            self.check_value(of_field, field, &format!("{place}.{name}"));
        }
    }
}

/// As JSON, in which all keys are text.
fn json(yaml: Yaml) -> Value {
    match yaml {
        Yaml::Mapping(mapping) => {
            let fields = mapping.into_iter().map(|(key, value)| {
                let key = match json(key) {
                    Value::String(key) => key,
                    key => key.to_string(),
                };
                (key, json(value))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Yaml::Sequence(values) => values.into_iter().map(json).collect(),
        Yaml::Tagged(tagged) => json(tagged.value),
        scalar => serde_json::to_value(scalar).unwrap(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema(json!({
            "paths": {"/vm": {"patch": {"parameters": [
                {"in": "body", "schema": {"$ref": "#/definitions/Vm"}}
            ]}}},
            "definitions": {"Vm": {
                "type": "object",
                "required": ["state"],
                "properties": {
                    "state": {"type": "string", "enum": ["Paused"]},
                    "count": {"type": "integer", "maximum": 3},
                },
            }},
        }))
    }

    fn fits(value: &Value) -> bool {
        std::panic::catch_unwind(|| schema().check("Vm", value)).is_ok()
    }

    #[test]
    fn what_the_schema_does_not_allow_is_found() {
        assert!(fits(&json!({"state": "Paused", "count": 3})));
        for wrong in [
            json!({}),
            json!({"state": "Gone"}),
            json!({"state": "Paused", "count": 4}),
            json!({"state": "Paused", "count": "3"}),
            json!({"state": "Paused", "more": 1}),
            json!("Paused"),
        ] {
            assert!(!fits(&wrong), "{wrong}");
        }
    }

    #[test]
    fn requests_that_are_not_in_the_schema_are_found() {
        let passes = |method: &str, path: &str, body: Option<Value>| {
            let request = AskedFor {
                method: method.to_owned(),
                path: path.to_owned(),
                body,
            };
            std::panic::catch_unwind(|| schema().check_request("/v1", &request)).is_ok()
        };
        let body = || Some(json!({"state": "Paused"}));
        assert!(passes("PATCH", "/v1/vm", body()));
        assert!(!passes("PUT", "/v1/vm", body()));
        assert!(!passes("PATCH", "/v1/vms", body()));
        assert!(!passes("PATCH", "/v1/vm", None));
        assert!(!passes("PATCH", "/v1/vm", Some(json!({}))));
    }
}
