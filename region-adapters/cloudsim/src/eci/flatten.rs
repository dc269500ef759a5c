//! Flattened parameters (`Container.1.EnvironmentVar.2.Key`) into a typed tree, strictly.
//!
//! The names and types an action takes are data, `schema.txt`. What is not there is refused by name: a real cloud may
//! be laxer, but a simulator that swallows a misspelt parameter hides the mistake until production. Indices start at 1
//! and have no gaps. Depth is bounded by the schema, width by [`MAX_ITEMS`], the whole by `query::MAX_PARAMETERS`.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::error::EciError;

/// Longest list taken. The vendor's own limits (20 containers, 10 tags) are checked by the actions; environment
/// variables have none stated.
const MAX_ITEMS: usize = 500;

const SCHEMA_TEXT: &str = include_str!("schema.txt");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Float,
    Boolean,
}

/// A place in the schema: a scalar, an object with named children, or a list with one kind of item.
#[derive(Clone, Debug, Default)]
struct Node {
    kind: Option<Kind>,
    is_required: bool,
    children: BTreeMap<String, Node>,
    item: Option<Box<Node>>,
}

/// One action: where it may be called from and what it takes.
#[derive(Clone, Debug, Default)]
struct Action {
    methods: String,
    root: Node,
}

/// All actions served, by name.
#[derive(Debug)]
pub(crate) struct Schema {
    actions: BTreeMap<String, Action>,
    /// Taken by every action.
    common: Node,
}

impl Schema {
    /// Reads the table compiled into the program.
    pub(crate) fn load() -> Self {
        let mut schema = Self { actions: BTreeMap::new(), common: Node::default() };
        let mut current = String::new();
        for line in SCHEMA_TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(head) = line.strip_prefix('@') {
                let (name, methods) = head.split_once(' ').unwrap_or((head, "GET|POST"));
                name.clone_into(&mut current);
                if name != "*" {
                    let action = Action { methods: methods.to_owned(), root: Node::default() };
                    schema.actions.insert(current.clone(), action);
                }
                continue;
            }
            let root = match schema.actions.get_mut(&current) {
                Some(action) => &mut action.root,
                None => &mut schema.common,
            };
            let mut words = line.split(' ');
            if let (Some(path), Some(kind)) = (words.next(), words.next()) {
                root.insert(path, kind);
            }
        }
        schema
    }

    /// Whether the action is served, and by which HTTP methods (`GET|POST` or `POST`).
    pub(crate) fn methods(&self, action: &str) -> Option<&str> {
        self.actions.get(action).map(|action| action.methods.as_str())
    }

    /// Turns decoded pairs into the action's request object, with numbers and booleans as such.
    ///
    /// # Errors
    /// `InvalidParameter` naming the parameter that is unknown, twice there, out of range or of the wrong type;
    /// `MissingParameter` naming the first required one that is absent.
    pub(crate) fn unflatten(&self, action: &str, pairs: &[(String, String)]) -> Result<Value, EciError> {
        let Some(action) = self.actions.get(action) else {
            return Err(EciError::new("InvalidAction", "Specified action is not found."));
        };
        let mut tree = Tree::default();
        for (key, value) in pairs {
            // The legacy Python SDK sends some names of update and image-cache calls with a blank at the end.
            let key = key.trim_end();
            if let Some(kind) = self.common.children.get(key).and_then(|node| node.kind) {
                scalar(kind, key, value)?;
                continue;
            }
            tree.put(&action.root, key, value)?;
        }
        let value = tree.into_value("")?;
        check_required(&action.root, &value, "")?;
        Ok(value)
    }
}

impl Node {
    fn insert(&mut self, path: &str, kind: &str) {
        let mut node = self;
        for segment in path.split('.') {
            node = match segment {
                "#" => node.item.get_or_insert_default(),
                name => node.children.entry(name.to_owned()).or_default(),
            };
        }
        node.is_required = kind.ends_with('!');
        node.kind = match kind.trim_end_matches('!') {
            "s" => Some(Kind::Text),
            "i" => Some(Kind::Integer),
            "f" => Some(Kind::Float),
            "b" => Some(Kind::Boolean),
            _ => None,
        };
    }
}

/// The request being put together; lists are keyed by their index until all parameters are read.
#[derive(Debug, Default)]
struct Tree {
    leaf: Option<Value>,
    children: BTreeMap<String, Tree>,
    items: BTreeMap<usize, Tree>,
}

impl Tree {
    fn put(&mut self, schema: &Node, key: &str, value: &str) -> Result<(), EciError> {
        let unknown = || EciError::invalid(key, "this action takes no parameter of this name");
        let (mut tree, mut node) = (self, schema);
        for segment in key.split('.') {
            if let Some(item) = node.item.as_deref() {
                node = item;
                tree = tree.items.entry(index(key, segment)?).or_default();
            } else {
                node = node.children.get(segment).ok_or_else(unknown)?;
                tree = tree.children.entry(segment.to_owned()).or_default();
            }
        }
        let kind = node.kind.ok_or_else(unknown)?;
        if tree.leaf.is_some() {
            return Err(EciError::invalid(key, "it is given more than once"));
        }
        tree.leaf = Some(scalar(kind, key, value)?);
        Ok(())
    }

    fn into_value(self, path: &str) -> Result<Value, EciError> {
        if let Some(leaf) = self.leaf {
            return Ok(leaf);
        }
        if !self.items.is_empty() {
            let mut list = Vec::with_capacity(self.items.len());
            for (index, item) in self.items {
                if index != list.len() + 1 {
                    return Err(EciError::invalid(&format!("{path}.{index}"), "indices start at 1 and have no gaps"));
                }
                list.push(item.into_value(&format!("{path}.{index}"))?);
            }
            return Ok(Value::Array(list));
        }
        let mut object = Map::new();
        for (name, child) in self.children {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            object.insert(name, child.into_value(&path)?);
        }
        Ok(Value::Object(object))
    }
}

fn index(key: &str, segment: &str) -> Result<usize, EciError> {
    let is_plain = !segment.starts_with(['0', '+']) && segment.len() <= 4;
    match segment.parse::<usize>() {
        Ok(index) if is_plain && index <= MAX_ITEMS => Ok(index),
        _ => Err(EciError::invalid(key, &format!("{segment} is not an index from 1 to {MAX_ITEMS}"))),
    }
}

fn scalar(kind: Kind, key: &str, text: &str) -> Result<Value, EciError> {
    match kind {
        Kind::Text => Ok(Value::String(text.to_owned())),
        Kind::Integer => text
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| EciError::invalid(key, &format!("{text:?} is not an integer"))),
        Kind::Float => text
            .parse::<f64>()
            .ok()
            .and_then(Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| EciError::invalid(key, &format!("{text:?} is not a number"))),
        Kind::Boolean if text.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
        Kind::Boolean if text.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
        Kind::Boolean => Err(EciError::invalid(key, &format!("{text:?} is neither true nor false"))),
    }
}

fn check_required(node: &Node, value: &Value, path: &str) -> Result<(), EciError> {
    for (name, child) in &node.children {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let given = value.get(name);
        let list_required = child.item.as_deref().is_some_and(|item| item.is_required);
        if given.is_none() && (child.is_required || list_required) {
            return Err(EciError::missing(&if list_required { format!("{path}.1") } else { path }));
        }
        match (given, child.item.as_deref()) {
            (Some(Value::Array(items)), Some(item_node)) => {
                for (at, item) in items.iter().enumerate() {
                    check_required(item_node, item, &format!("{path}.{}", at + 1))?;
                }
            }
            (Some(given), _) => check_required(child, given, &path)?,
            (None, _) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eci::query::decode_pairs;

    fn read(action: &str, query: &str) -> Result<Value, EciError> {
        Schema::load().unflatten(action, &decode_pairs(query).unwrap())
    }

    const BASE: &str = "RegionId=r&ContainerGroupName=n&Container.1.Name=a&Container.1.Image=i";

    #[test]
    fn lists_objects_and_scalars_come_back_typed() {
        let query = format!(
            "{BASE}&Container.1.Command.2=y&Container.1.Command.1=x&Cpu=2&DryRun=True&Container.1.Gpu=1&Tag.1.Key=k&Tag.1.Value=&AutoCreateEip=FALSE"
        );
        let expected = json!({
            "RegionId": "r", "ContainerGroupName": "n", "Cpu": 2.0, "DryRun": true, "AutoCreateEip": false,
            "Container": [{"Name": "a", "Image": "i", "Command": ["x", "y"], "Gpu": 1}],
            "Tag": [{"Key": "k", "Value": ""}],
        });
        assert_eq!(read("CreateContainerGroup", &query).unwrap(), expected);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for (extra, code, named) in [
            ("Containers.1.Name=x", "InvalidParameter", "Containers.1.Name"),
            ("Container.1.Nome=x", "InvalidParameter", "Container.1.Nome"),
            ("Container.0.Name=x", "InvalidParameter", "Container.0.Name"),
            ("Container.01.Name=x", "InvalidParameter", "Container.01.Name"),
            ("Container.501.Name=x", "InvalidParameter", "Container.501.Name"),
            ("Container.x.Name=x", "InvalidParameter", "Container.x.Name"),
            ("Container.3.Name=x", "InvalidParameter", "Container.3"),
            ("Container.1=x", "InvalidParameter", "Container.1"),
            ("Container=x", "InvalidParameter", "Container"),
            ("Cpu.1=x", "InvalidParameter", "Cpu.1"),
            ("Cpu=two", "InvalidParameter", "Cpu"),
            ("Cpu=NaN", "InvalidParameter", "Cpu"),
            ("Cpu=inf", "InvalidParameter", "Cpu"),
            ("EipBandwidth=1.5", "InvalidParameter", "EipBandwidth"),
            ("DryRun=yes", "InvalidParameter", "DryRun"),
            ("RegionId=again", "InvalidParameter", "RegionId"),
            ("Container.2.Name=x", "MissingParameter", "Container.2.Image"),
            ("OwnerId=x", "InvalidParameter", "OwnerId"),
        ] {
            let error = read("CreateContainerGroup", &format!("{BASE}&{extra}")).unwrap_err();
            assert_eq!(error.code, code, "{extra}");
            assert!(error.message.contains(&format!("parameter {named} ")), "{extra}: {}", error.message);
        }
    }

    #[test]
    fn required_parameters_are_named() {
        for (action, query, named) in [
            ("CreateContainerGroup", "RegionId=r&ContainerGroupName=n", "Container.1 "),
            ("CreateContainerGroup", "RegionId=r&Container.1.Name=a&Container.1.Image=i", "ContainerGroupName "),
            ("DeleteContainerGroup", "RegionId=r", "ContainerGroupId "),
            ("DescribeAvailableResource", "RegionId=r", "DestinationResource "),
            ("TagResources", "RegionId=r&ResourceType=x&Tag.1.Key=a", "ResourceId.1 "),
        ] {
            let error = read(action, query).unwrap_err();
            assert_eq!(error.code, "MissingParameter", "{action}");
            assert!(error.message.contains(named), "{action}: {}", error.message);
        }
    }

    #[test]
    fn methods_and_unknown_actions() {
        let schema = Schema::load();
        assert_eq!(schema.methods("DescribeContainerGroupStatus"), Some("POST"));
        assert_eq!(schema.methods("DescribeContainerGroups"), Some("GET|POST"));
        assert_eq!(schema.methods("*"), None);
        assert_eq!(schema.methods("CreatePod"), None);
        assert_eq!(read("DescribeRegions", "OwnerId=5").unwrap(), json!({}));
    }

    proptest::proptest! {
        #[test]
        fn no_request_breaks_it(query in "[A-Za-z0-9.=&%+#]{0,200}", name in "(Create|Update)ContainerGroup") {
            if let Ok(pairs) = decode_pairs(&query) {
                let _ = Schema::load().unflatten(&name, &pairs);
            }
        }

        #[test]
        fn what_is_encoded_is_read_back(pairs in proptest::collection::vec(("\\PC{1,10}", "\\PC{0,20}"), 0..10)) {
            let mut sorted = pairs.clone();
            sorted.sort();
            let text = crate::eci::query::canonical(&pairs);
            proptest::prop_assert_eq!(decode_pairs(&text).unwrap(), sorted);
        }
    }
}
