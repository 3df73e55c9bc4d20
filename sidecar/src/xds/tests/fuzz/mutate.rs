//! Changes a message at random, by its schema: fields are cleared, doubled, set to what is unlikely, at any depth and
//! inside `Any`. Bytes are hurt too, so that the decoder has its share.

use prost::Message as _;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};

use crate::xds::convert::fields::{POOL, type_name};

const ANY: &str = "google.protobuf.Any";
/// Below this a value is left empty.
const DEPTH: usize = 12;

const TEXTS: &[&str] = &[
    "",
    "*",
    "*.",
    "*.example.com",
    "example.*",
    "a",
    "/",
    "/a/(b|c)+",
    "(",
    "(a{1,1000}){1,1000}",
    "\\9",
    "%REQ(x)%",
    "%",
    ":path",
    ":authority",
    "x-user",
    "X Y",
    "a\r\nb: c",
    "é\u{202e}",
    "\0",
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "256.1.1.1",
    "localhost",
    "ROOTCA",
    "default",
    "h2",
    "5xx,reset",
    "envoy.filters.http.router",
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "spiffe://cluster.local/ns/a/sa/b",
];
const NUMBERS: &[i64] = &[
    0,
    1,
    2,
    -1,
    7,
    100,
    101,
    1_000_000,
    65_535,
    65_536,
    8_388_608,
    i32::MAX as i64,
    i32::MIN as i64,
    i64::MAX,
    i64::MIN,
];
const REALS: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    100.0,
    1e-300,
    f64::MAX,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

/// One to four changes of `bytes`, which are a `message`.
pub(super) fn mutate(rng: &mut fastrand::Rng, message: &str, bytes: &[u8]) -> Vec<u8> {
    let descriptor = POOL.get_message_by_name(message).unwrap();
    let mut found = DynamicMessage::decode(descriptor, bytes).unwrap();
    for _ in 0..rng.usize(1..=4) {
        change_message(rng, &mut found, DEPTH);
    }
    let mut bytes = found.encode_to_vec();
    if rng.u8(..) < 12 {
        hurt(rng, &mut bytes);
    }
    bytes
}

fn hurt(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return bytes.push(rng.u8(..));
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..4) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << rng.u8(..8),
        2 => bytes.insert(at, rng.u8(..)),
        _ => drop(bytes.remove(at)),
    }
}

fn change_message(rng: &mut fastrand::Rng, message: &mut DynamicMessage, depth: usize) {
    let descriptor = message.descriptor();
    if descriptor.full_name() == ANY && rng.u8(..) < 230 && change_inside(rng, message, depth) {
        return;
    }
    let there: Vec<_> = message.fields().map(|(field, _)| field).collect();
    // Mostly what is there: what is not, is mostly refused at once.
    let field = if !there.is_empty() && rng.u8(..) < 190 {
        rng.choice(there)
    } else {
        let all: Vec<_> = descriptor.fields().collect();
        rng.choice(all)
    };
    let Some(field) = field else { return };
    if rng.u8(..) < 30 {
        message.clear_field(&field);
    } else if let Some(mut value) = message
        .has_field(&field)
        .then(|| message.get_field_mut(&field).clone())
    {
        change(rng, &field, &mut value, depth);
        message.set_field(&field, value);
    } else {
        let value = any_value(rng, &field, depth);
        message.set_field(&field, value);
    }
}

/// Changes the message that an `Any` holds; false if that cannot be read.
fn change_inside(rng: &mut fastrand::Rng, any: &mut DynamicMessage, depth: usize) -> bool {
    let (Some(url), Some(bytes)) = (
        any.get_field_by_name("type_url"),
        any.get_field_by_name("value"),
    ) else {
        return false;
    };
    let (Some(url), Some(bytes)) = (url.as_str(), bytes.as_bytes()) else {
        return false;
    };
    let Some(descriptor) = POOL.get_message_by_name(type_name(url)) else {
        return false;
    };
    let Ok(mut inner) = DynamicMessage::decode(descriptor, bytes.clone()) else {
        return false;
    };
    change_message(rng, &mut inner, depth);
    any.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
    true
}

fn change(rng: &mut fastrand::Rng, field: &FieldDescriptor, value: &mut Value, depth: usize) {
    match value {
        Value::Message(message) if rng.u8(..) < 240 => change_message(rng, message, depth),
        Value::List(list) if !list.is_empty() && rng.u8(..) < 230 => {
            let at = rng.usize(..list.len());
            match rng.u8(..8) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                2 => list.swap(0, at),
                3 => list.push(one_value(rng, &field.kind(), depth)),
                _ => change_one(rng, &field.kind(), &mut list[at], depth),
            }
        }
        Value::Map(map) if !map.is_empty() && rng.u8(..) < 230 => {
            let at = rng.usize(..map.len());
            let key = map.keys().nth(at).unwrap().clone();
            if rng.u8(..) < 40 {
                map.remove(&key);
            } else if let Kind::Message(entry) = field.kind() {
                change_one(
                    rng,
                    &entry.map_entry_value_field().kind(),
                    map.get_mut(&key).unwrap(),
                    depth,
                );
            }
        }
        value => *value = any_value(rng, field, depth),
    }
}

fn change_one(rng: &mut fastrand::Rng, kind: &Kind, value: &mut Value, depth: usize) {
    match value {
        Value::Message(message) => change_message(rng, message, depth),
        value => *value = one_value(rng, kind, depth),
    }
}

/// A value of `field`, whatever its cardinality.
fn any_value(rng: &mut fastrand::Rng, field: &FieldDescriptor, depth: usize) -> Value {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            unreachable!("a map is made of entries")
        };
        let key = MapKey::String((*rng.choice(TEXTS).unwrap()).to_owned());
        if !matches!(entry.map_entry_key_field().kind(), Kind::String) {
            return Value::Map(std::collections::HashMap::new());
        }
        let value = one_value(rng, &entry.map_entry_value_field().kind(), depth);
        return Value::Map([(key, value)].into());
    }
    let value = one_value(rng, &field.kind(), depth);
    if field.cardinality() == Cardinality::Repeated {
        return Value::List(vec![value; rng.usize(1..3)]);
    }
    value
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "any number will do"
)]
fn one_value(rng: &mut fastrand::Rng, kind: &Kind, depth: usize) -> Value {
    let number = if rng.bool() {
        *rng.choice(NUMBERS).unwrap()
    } else {
        rng.i64(0..20)
    };
    let text = *rng.choice(TEXTS).unwrap();
    let real = *rng.choice(REALS).unwrap();
    match kind {
        Kind::Double => Value::F64(real),
        Kind::Float => Value::F32(real as f32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number as u64),
        Kind::Bool => Value::Bool(rng.bool()),
        Kind::String if rng.u8(..) < 6 => Value::String("a".repeat(70_000)),
        Kind::String => Value::String(text.to_owned()),
        Kind::Bytes => Value::Bytes(text.as_bytes().to_vec().into()),
        Kind::Enum(values) => {
            let known: Vec<_> = values.values().map(|value| value.number()).collect();
            let known = rng.choice(known).unwrap_or_default();
            Value::EnumNumber(if rng.u8(..) < 200 {
                known
            } else {
                number as i32
            })
        }
        Kind::Message(descriptor) => Value::Message(new_message(rng, descriptor, depth)),
    }
}

/// A message with a field or two.
fn new_message(
    rng: &mut fastrand::Rng,
    descriptor: &MessageDescriptor,
    depth: usize,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    if depth > 0 {
        for _ in 0..rng.usize(0..3) {
            change_message(rng, &mut message, depth - 1);
        }
    }
    message
}
