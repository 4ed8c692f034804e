//! The API's description as a judge: whether it allows a request, and has the answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use super::client::{Response, TestGateway};

const TYPE_PREFIX: &str = "urn:session-supervisor:problem:";

/// An answer that the description has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Answer {
    pub(super) method: String,
    /// As described: `/v1/sessions/{id}`.
    pub(super) path: String,
    pub(super) status: u16,
    /// The end of the problem's type.
    pub(super) problem: Option<String>,
}

/// The description of a gateway's API.
///
/// Fields may be added to answers, so the description does not forbid them. Here they are
/// forbidden all the same: a field of today that it lacks is a mistake.
#[derive(Debug)]
pub(super) struct Description {
    root: Value,
    validators: RefCell<BTreeMap<String, Validator>>,
}

impl Description {
    /// The description that `gateway` gives of itself.
    pub(super) fn of(gateway: &TestGateway) -> Self {
        let answer = gateway.get("/openapi.json");
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut root = answer.json();
        forbid_other_fields(&mut root["components"]);
        Self {
            root,
            validators: RefCell::default(),
        }
    }

    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// What is described: methods and paths.
    pub(super) fn operations(&self) -> Vec<(String, String)> {
        let mut operations = Vec::new();
        for (path, item) in members(&self.root["paths"]) {
            for (method, _) in members(item) {
                operations.push((method.to_uppercase(), path.clone()));
            }
        }
        operations
    }

    /// Every answer that is described.
    pub(super) fn answers(&self) -> BTreeSet<Answer> {
        let mut answers = BTreeSet::new();
        for (method, path) in self.operations() {
            let responses = &self.operation(&method, &path).unwrap()["responses"];
            for (status, response) in members(responses) {
                let answer = |problem| Answer {
                    method: method.clone(),
                    path: path.clone(),
                    status: status.parse().expect("a status"),
                    problem,
                };
                let problems = problems(self.resolve(response));
                if problems.is_empty() {
                    answers.insert(answer(None));
                }
                answers.extend(problems.into_iter().map(|problem| answer(Some(problem))));
            }
        }
        answers
    }

    /// The described path that `target` is at.
    pub(super) fn path_of(&self, target: &str) -> Option<&str> {
        let segments: Vec<_> = path(target).split('/').collect();
        let mut paths = members(&self.root["paths"]).map(|(path, _)| path.as_str());
        paths.find(|path| {
            let described: Vec<_> = path.split('/').collect();
            let is_at = |(part, segment): (&&str, &&str)| match is_name(part) {
                // An empty holder is a wrong one, and no other path.
                true => !segment.is_empty() || **part == *"{holder}",
                false => **part == decode(segment),
            };
            described.len() == segments.len() && described.iter().zip(&segments).all(is_at)
        })
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let described = match method {
            "GET" | "HEAD" => "get",
            "POST" => "post",
            "PUT" => "put",
            "DELETE" => "delete",
            _ => return None,
        };
        self.root["paths"][path].get(described)
    }

    /// Whether the description allows this request, or why not. An empty body is none.
    pub(super) fn check_request(
        &self,
        method: &str,
        target: &str,
        body: &str,
    ) -> Result<(), String> {
        let path = self.path_of(target).ok_or("the path is not described")?;
        let operation = self.operation(method, path);
        let operation = operation.ok_or("the method is not described")?;
        // A health check answers whatever comes with it.
        if operation["responses"]["422"].is_null() {
            return Ok(());
        }
        let parameters = operation["parameters"].as_array();
        for (place, name, value) in parameters_of(path, target) {
            let mut described = parameters.into_iter().flatten();
            let parameter = described.find(|it| it["in"] == place && it["name"] == *name);
            let schema = &parameter.ok_or(format!("{place} {name} is not described"))?["schema"];
            let value = match self.resolve(schema)["type"].as_str() {
                Some("integer") => serde_json::from_str(&value).unwrap_or(json!(value)),
                _ => json!(value),
            };
            self.validate(&format!("{method} {path} {place} {name}"), schema, &value)?;
        }
        let described = &operation["requestBody"];
        match (body, described) {
            ("", Value::Null) => Ok(()),
            ("", described) if described["required"] == false => Ok(()),
            ("", _) => Err("a body is required".into()),
            (_, Value::Null) => Err("no body is described".into()),
            (body, described) => {
                let body = serde_json::from_str(body).map_err(|error| error.to_string())?;
                let schema = &described["content"]["application/json"]["schema"];
                self.validate(&format!("{method} {path}"), schema, &body)
            }
        }
    }

    /// What the body of an operation may be.
    pub(super) fn body_of<'v>(&'v self, operation: &'v Value) -> &'v Value {
        self.resolve(&operation["requestBody"]["content"]["application/json"]["schema"])
    }

    /// Whether `value` is one of those that `schema` describes.
    pub(super) fn allows(&self, schema: &Value, value: &Value) -> bool {
        !schema.is_null() && self.validate(&schema.to_string(), schema, value).is_ok()
    }

    /// Which of the described answers this is, if the request came as far as to be one of those
    /// described; or what of it is not as described.
    pub(super) fn check_answer(
        &self,
        method: &str,
        target: &str,
        answer: &Response,
    ) -> Result<Option<Answer>, String> {
        let Some(path) = self.path_of(target) else {
            return check_unrouted(answer, &[(404, "not-found")]);
        };
        let Some(operation) = self.operation(method, path) else {
            check_unrouted(answer, &[(405, "method-not-allowed")])?;
            return self.check_allow(path, answer);
        };
        let responses = &operation["responses"];
        let response = responses.get(answer.status.to_string());
        let response = response.ok_or_else(|| format!("{} is not described", answer.status))?;
        let response = self.resolve(response);
        for (name, _) in response["headers"].as_object().into_iter().flatten() {
            answer.header(name).ok_or(format!("{name} is missing"))?;
        }
        let mut problem = None;
        if method != "HEAD" {
            let place = format!("{method} {path} {}", answer.status);
            problem = self.check_content(&place, &response["content"], answer)?;
        }
        Ok(Some(Answer {
            method: method.to_owned(),
            path: path.to_owned(),
            status: answer.status,
            problem,
        }))
    }

    /// Checks a body. The end of the problem's type if it is one.
    fn check_content(
        &self,
        place: &str,
        content: &Value,
        answer: &Response,
    ) -> Result<Option<String>, String> {
        let content_type = answer.header("content-type").unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default();
        if content.is_null() {
            let is_empty = content_type.is_empty() && answer.body.is_empty();
            return if is_empty {
                Ok(None)
            } else {
                Err("no content is described".into())
            };
        }
        let described = content.get(content_type);
        let described = described.ok_or_else(|| format!("`{content_type}` is not described"))?;
        if !content_type.ends_with("json") {
            return Ok(None);
        }
        let body = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        self.validate(place, &described["schema"], &body)?;
        Ok(problem_name(&body))
    }

    fn check_allow(&self, path: &str, answer: &Response) -> Result<Option<Answer>, String> {
        if answer.status != 405 {
            return Ok(None);
        }
        let described = members(&self.root["paths"][path]).map(|(method, _)| method.to_uppercase());
        let mut expected: BTreeSet<_> = described.collect();
        if expected.contains("GET") {
            expected.insert("HEAD".into());
        }
        let allow = answer.header("allow").unwrap_or_default();
        let found: BTreeSet<_> = allow.split(", ").map(str::to_owned).collect();
        if found == expected {
            Ok(None)
        } else {
            Err(format!(
                "{allow} is allowed, but {expected:?} are described"
            ))
        }
    }

    /// What a reference to a component leads to.
    fn resolve<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str() {
            None => value,
            Some(reference) => {
                let place = reference
                    .strip_prefix('#')
                    .expect("a reference to elsewhere");
                self.root.pointer(place).expect("a reference to nothing")
            }
        }
    }

    fn validate(&self, place: &str, schema: &Value, instance: &Value) -> Result<(), String> {
        let mut validators = self.validators.borrow_mut();
        let validator = validators.entry(place.to_owned()).or_insert_with(|| {
            let mut schema = json!({"allOf": [schema], "components": self.root["components"]});
            if schema["allOf"][0].get("$ref").is_some() {
                schema["unevaluatedProperties"] = json!(false);
            }
            let options = jsonschema::options().with_draft(Draft::Draft202012);
            let options = options.should_validate_formats(true);
            options.build(&schema).expect("a schema")
        });
        let mut errors = validator.iter_errors(instance);
        errors.next().map_or(Ok(()), |error| {
            Err(format!("{}: {error}", error.instance_path()))
        })
    }
}

/// An answer to what no route is for: one of `expected`, or one that came before the routes.
fn check_unrouted(answer: &Response, expected: &[(u16, &str)]) -> Result<Option<Answer>, String> {
    let before = [
        (400, "malformed-json"),
        (401, "unauthorized"),
        (403, "forbidden"),
    ];
    let problem = serde_json::from_str(&answer.body).ok();
    let problem = problem
        .and_then(|body| problem_name(&body))
        .unwrap_or_default();
    let found = (answer.status, problem.as_str());
    // An answer to HEAD has no body.
    let is_one = |one: &(u16, &str)| one.0 == found.0 && (found.1.is_empty() || one.1 == found.1);
    if before.iter().chain(expected).any(is_one) {
        Ok(None)
    } else {
        Err(format!("{found:?} where {expected:?} is described"))
    }
}

/// Where an object is named by reference it has the fields described there and no others.
fn forbid_other_fields(schema: &mut Value) {
    match schema {
        Value::Array(several) => several.iter_mut().for_each(forbid_other_fields),
        Value::Object(keywords) => {
            for (keyword, value) in keywords.iter_mut() {
                match value {
                    // Each part of a whole knows only some of its fields.
                    Value::Array(parts) if keyword == "allOf" => {
                        let inline = parts.iter_mut().filter(|part| part.get("$ref").is_none());
                        inline.for_each(forbid_other_fields);
                    }
                    value => forbid_other_fields(value),
                }
            }
            if keywords.contains_key("$ref") {
                keywords.insert("unevaluatedProperties".into(), json!(false));
            }
        }
        _ => {}
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().expect("an object").iter()
}

/// The ends of the problem types that a response may have.
fn problems(response: &Value) -> Vec<String> {
    let schema = &response["content"]["application/problem+json"]["schema"];
    let types = schema["allOf"][1]["properties"]["type"]["enum"].as_array();
    let types = types.into_iter().flatten().filter_map(Value::as_str);
    types.filter_map(end_of_type).collect()
}

fn problem_name(body: &Value) -> Option<String> {
    body["type"].as_str().and_then(end_of_type)
}

fn end_of_type(urn: &str) -> Option<String> {
    urn.strip_prefix(TYPE_PREFIX).map(str::to_owned)
}

/// Whether a part of a described path stands for a name.
fn is_name(part: &str) -> bool {
    part.starts_with('{')
}

fn path(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

/// The parameters of a request, decoded: where they are, their names and their values.
fn parameters_of(described: &str, target: &str) -> Vec<(&'static str, String, String)> {
    let segments = described.split('/').zip(path(target).split('/'));
    let names = segments.filter(|(part, _)| is_name(part));
    let in_path = names.map(|(part, segment)| {
        let name = part.trim_matches(['{', '}']);
        ("path", name.to_owned(), decode(segment))
    });
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let in_query = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        ("query", decode(name), decode(value))
    });
    in_path.chain(in_query).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let digits = others
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
