//! Messages as a stranger may send them, for tests: any field of any type, with words that mean something here among
//! others, whole or damaged on the way. The same seed gives the same messages.

use std::sync::LazyLock;

use outrigger_proto::DESCRIPTORS;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

/// Seeds of each property, printed where it fails.
pub(crate) const SEEDS: u64 = 10;
/// Messages inside each other.
const DEPTH: u32 = 8;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap());

/// Words that have a meaning somewhere.
const WORDS: &[&str] = &[
    "",
    "*",
    "~",
    "default",
    "reviews",
    "reviews:9080",
    "reviews.default.svc.cluster.local",
    "reviews.default.svc.cluster.local:9080",
    "outbound|9080||reviews.default.svc.cluster.local",
    "outbound|||",
    "http_proxy",
    "http_proxy/reviews:9080",
    "ROOTCA",
    "xds.istio.io/grpc/lds/inbound/127.0.0.1:1",
    "127.0.0.1:15080",
    "10.0.0.1",
    "::1",
    "HTTP_PROXY",
    "INBOUND",
    "APP",
    "SERVICE",
    "PORT",
    "ON_DEMAND",
    "OUTRIGGER",
    "NAMESPACE",
    "LABELS",
    "GENERATOR",
    "grpc",
    "outrigger",
    "gRPC C++",
    "sidecar~10.0.0.9~a.default~default.svc.cluster.local",
    "~~~.svc.",
    "(",
    "a\u{0}\u{7f}\u{202e}é",
];

/// One who sends whatever comes to mind.
pub(crate) struct Stranger {
    random: fastrand::Rng,
}

impl Stranger {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// One of so many.
    pub(crate) fn choose(&mut self, many: usize) -> usize {
        self.random.usize(..many)
    }

    /// A message of the type `name`. None if what arrives cannot be read: then the call ends there.
    pub(crate) fn message<M: Message + Default>(&mut self, name: &str) -> Option<M> {
        let descriptor = POOL.get_message_by_name(name).unwrap();
        let mut bytes = self.fill(&descriptor, DEPTH).encode_to_vec();
        if self.random.u8(..3) == 0 {
            self.damage(&mut bytes);
        }
        M::decode(bytes.as_slice()).ok()
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.random.usize(1..4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.random.usize(..bytes.len());
            match self.random.u8(..4) {
                0 => bytes[at] = self.random.u8(..),
                1 => bytes.insert(at, self.random.u8(..)),
                2 => bytes.truncate(at),
                _ => {
                    let again = bytes[at..].to_vec();
                    bytes.extend(again);
                }
            }
        }
    }

    fn fill(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            // Deep down fewer, so that it ends.
            if self.random.u32(..=DEPTH) > depth.max(1) {
                continue;
            }
            if let Some(value) = self.field(&field, depth) {
                message.set_field(&field, value);
            }
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u32) -> Option<Value> {
        let many = match self.random.u8(..40) {
            0 => 300,
            few => usize::from(few % 4),
        };
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                return None;
            };
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let many = many.min(20);
            let entries = (0..many).filter_map(|_| {
                let key = match key.kind() {
                    Kind::String => MapKey::String(self.word()),
                    _ => return None,
                };
                Some((key, self.value(&value.kind(), depth)?))
            });
            return Some(Value::Map(entries.collect()));
        }
        if field.is_list() {
            let many = if matches!(field.kind(), Kind::Message(_)) {
                many.min(5)
            } else {
                many
            };
            let values = (0..many).filter_map(|_| self.value(&field.kind(), depth));
            return Some(Value::List(values.collect()));
        }
        self.value(&field.kind(), depth)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "any number will do"
    )]
    fn value(&mut self, kind: &Kind, depth: u32) -> Option<Value> {
        Some(match kind {
            Kind::Message(inner) => {
                let depth = depth.checked_sub(1)?;
                Value::Message(self.fill(inner, depth))
            }
            Kind::String => Value::String(self.word()),
            Kind::Bytes => Value::Bytes(self.word().into_bytes().into()),
            Kind::Bool => Value::Bool(self.random.bool()),
            Kind::Double => Value::F64(self.double()),
            Kind::Float => Value::F32(self.double() as f32),
            Kind::Enum(_) => Value::EnumNumber(self.random.i32(-1..6)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.signed() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.signed()),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.signed() as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.signed() as u64),
        })
    }

    fn signed(&mut self) -> i64 {
        match self.random.u8(..6) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => -1,
            3 => self.random.i64(..),
            _ => self.random.i64(0..70_000),
        }
    }

    fn double(&mut self) -> f64 {
        match self.random.u8(..5) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => -1.5,
            3 => f64::MAX,
            _ => f64::from(self.random.u16(..)),
        }
    }

    fn word(&mut self) -> String {
        match self.random.u8(..40) {
            0 => "x".repeat(self.random.usize(..3000)),
            1 => self.random.char(..).to_string(),
            2 => format!("{}/{}", self.known(), self.known()),
            _ => self.known().to_owned(),
        }
    }

    fn known(&mut self) -> &'static str {
        WORDS[self.random.usize(..WORDS.len())]
    }
}
