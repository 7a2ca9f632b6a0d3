//! Label and field selectors, as the apiserver evaluates them (`labels.Parse` and `fields.ParseSelector`).

use serde_json::Value;

use super::resource::Resource;

/// Which objects a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Of which resource.
    pub(super) resource: Resource,
    /// In which namespace; `None`: in all.
    pub(super) namespace: Option<String>,
    requirements: Vec<Requirement>,
}

/// Why a selector cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    /// It does not parse.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// The apiserver knows no such field of this resource.
    #[error("field label not supported: {0}")]
    Field(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    subject: Subject,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Label(String),
    /// A JSON pointer.
    Field(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// True also where the label is absent, as in Kubernetes.
    NotIn(Vec<String>),
}

impl Selection {
    /// Every object of a resource.
    pub(super) const fn all(resource: Resource) -> Self {
        Self { resource, namespace: None, requirements: Vec::new() }
    }

    /// Only those in `namespace`, if given.
    #[must_use]
    pub(super) fn in_namespace(self, namespace: Option<String>) -> Self {
        Self { namespace, ..self }
    }

    /// Only those that `selector` (`labelSelector=`) selects.
    pub(super) fn with_labels(mut self, selector: &str) -> Result<Self, Problem> {
        for text in split(selector) {
            self.requirements.push(label_requirement(text)?);
        }
        Ok(self)
    }

    /// Only those that `selector` (`fieldSelector=`) selects. `fields` are those known beside name and namespace.
    pub(super) fn with_fields(mut self, selector: &str, fields: &[&str]) -> Result<Self, Problem> {
        for text in split(selector) {
            let (field, test) = comparison(text).ok_or_else(|| Problem::Syntax(text.to_owned()))?;
            if !["metadata.name", "metadata.namespace"].contains(&field) && !fields.contains(&field) {
                return Err(Problem::Field(field.to_owned()));
            }
            let subject = Subject::Field(format!("/{}", field.replace('.', "/")));
            self.requirements.push(Requirement { subject, test });
        }
        Ok(self)
    }

    /// Whether it takes a look at each object to tell whether it is selected.
    pub(super) const fn is_by_label_or_field(&self) -> bool {
        !self.requirements.is_empty()
    }

    /// Whether `object`, which is of this resource, is selected.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        self.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
            && self.requirements.iter().all(|requirement| requirement.holds(object))
    }
}

impl Requirement {
    fn holds(&self, object: &Value) -> bool {
        let value = match &self.subject {
            Subject::Label(key) => object.pointer("/metadata/labels").and_then(|labels| labels.get(key)),
            Subject::Field(pointer) => object.pointer(pointer),
        };
        // A field that is not set compares as the empty string; a label that is not set does not compare.
        let value = match (&self.subject, value.and_then(Value::as_str)) {
            (Subject::Field(_), None) => Some(""),
            (Subject::Field(_) | Subject::Label(_), found) => found,
        };
        let is_among = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => is_among(values),
            Test::NotIn(values) => !is_among(values),
        }
    }
}

fn label_requirement(text: &str) -> Result<Requirement, Problem> {
    let syntax = || Problem::Syntax(text.to_owned());
    let (key, test) = if let Some(key) = text.strip_prefix('!') {
        (key.trim(), Test::Absent)
    } else if let Some((key, values)) = set(text, " notin ") {
        (key, Test::NotIn(values))
    } else if let Some((key, values)) = set(text, " in ") {
        (key, Test::In(values))
    } else if let Some(comparison) = comparison(text) {
        comparison
    } else {
        (text, Test::Exists)
    };
    let is_key = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || !key.chars().all(is_key) {
        return Err(syntax());
    }
    Ok(Requirement { subject: Subject::Label(key.to_owned()), test })
}

/// `key in (a, b)`.
fn set<'text>(text: &'text str, operator: &str) -> Option<(&'text str, Vec<String>)> {
    let (key, values) = text.split_once(operator)?;
    let values = values.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some((key.trim(), values.split(',').map(|value| value.trim().to_owned()).collect()))
}

/// `key=value`, `key==value` or `key!=value`.
fn comparison(text: &str) -> Option<(&str, Test)> {
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = text.split_once("!=") {
        return Some((key.trim(), Test::NotIn(one(value))));
    }
    let (key, value) = text.split_once("==").or_else(|| text.split_once('='))?;
    Some((key.trim(), Test::In(one(value))))
}

/// The requirements of a selector: separated by commas outside of parentheses.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let separator = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    selector.split(separator).map(str::trim).filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_select_as_in_kubernetes() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}}});
        for (selector, selected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=web", false),
            ("other!=web", true),
            ("app", true),
            ("!app", false),
            ("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name", true),
            ("other", false),
            ("app in (db, web)", true),
            ("app in (db,cache),tier=front", false),
            ("app notin (db,cache),tier=front", true),
            ("other in (db)", false),
            ("other notin (db)", true),
            ("app=web,tier=back", false),
        ] {
            let selection = Selection::all(Resource::Services).with_labels(selector).unwrap();
            assert_eq!(selection.matches(&object), selected, "{selector}");
        }
    }

    #[test]
    fn fields_select_those_the_resource_knows() {
        let object = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"clusterIP": "None"}});
        for (selector, selected) in [
            ("metadata.name=a", true),
            ("metadata.name=b", false),
            ("metadata.namespace=n,metadata.name!=b", true),
            ("spec.clusterIP!=None", false),
            ("spec.clusterIP=None", true),
            ("spec.type=", true),
        ] {
            let selection = Selection::all(Resource::Services);
            let selection = selection.with_fields(selector, &["spec.clusterIP", "spec.type"]).unwrap();
            assert_eq!(selection.matches(&object), selected, "{selector}");
        }
        assert_eq!(
            Selection::all(Resource::Services).with_fields("spec.clusterIP!=None", &[]),
            Err(Problem::Field("spec.clusterIP".to_owned()))
        );
    }

    #[test]
    fn a_namespace_selects_its_own() {
        let object = json!({"metadata": {"name": "a", "namespace": "n"}});
        for (namespace, selected) in [(None, true), (Some("n"), true), (Some("m"), false)] {
            let selection = Selection::all(Resource::Services).in_namespace(namespace.map(str::to_owned));
            assert_eq!(selection.matches(&object), selected, "{namespace:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for selector in ["=a", "!", "a b", "a in b"] {
            let result = Selection::all(Resource::Services).with_labels(selector);
            assert_eq!(result, Err(Problem::Syntax(selector.to_owned())));
        }
    }
}
