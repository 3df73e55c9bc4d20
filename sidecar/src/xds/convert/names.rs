//! Tables of names (NDS).
//!
//! Asked for by name, a resource has that name and what it means. Sent as a whole, each host of a table also goes by the
//! shorter names that applications use: `orders.shop.svc`, `orders.shop`, and `orders` in its own namespace.
//! Source: Istio's name tables and the names that its agent makes of them.

use std::{net::IpAddr, sync::Arc};

use outrigger_proto::{
    envoy::config::core::v3::Metadata,
    istio::networking::nds::v1::{NameTable, name_table::NameInfo},
};
use prost_types::value::Kind;

use super::{Converted, FieldError, refuse};
use crate::dns::{book::Record, names::Scope};

/// Hosts of one table.
const MAX_HOSTS: usize = 100_000;
/// Addresses of one host, which all fit into one answer over TCP.
const MAX_ADDRESSES: usize = 1_000;
/// RFC 1035 section 2.3.4, without the last dot.
const MAX_NAME: usize = 253;

pub(crate) type Names = Vec<(String, Arc<Record>)>;

/// The names of a table. `asked`: it was asked for by this name, and is about nothing else.
pub(crate) fn convert(
    table: &NameTable,
    metadata: Option<&Metadata>,
    asked: Option<&str>,
    scope: &Scope,
) -> Converted<Names> {
    if table.table.len() > MAX_HOSTS {
        let found = table.table.len();
        return refuse("table", format!("{found} hosts; at most {MAX_HOSTS}"));
    }
    let ours = metadata.and_then(|metadata| metadata.filter_metadata.get("outrigger"));
    let field = |name: &str| ours?.fields.get(name)?.kind.as_ref();
    let ports = match field("ports") {
        Some(Kind::StructValue(ports)) => Some(ports_of(ports)?),
        None => None,
        Some(_) => {
            return refuse(
                "metadata.outrigger.ports",
                "must be an object, port by name",
            );
        }
    };
    let host = match field("host") {
        Some(Kind::StringValue(host)) => Some(name(host, "metadata.outrigger.host")?),
        None => None,
        Some(_) => return refuse("metadata.outrigger.host", "must be a name"),
    };
    if let Some(asked) = asked {
        let only = table.table.iter().next().filter(|_| table.table.len() == 1);
        let info = table.table.get_key_value(asked).or(only);
        let Some((key, info)) = info else {
            return refuse(
                "table",
                format!("has nothing on {asked:?}, which it is named after"),
            );
        };
        let mut record = record(key, info, scope)?;
        record.host = host.unwrap_or(record.host);
        record.ports = ports;
        return Ok(vec![(asked.to_owned(), Arc::new(record))]);
    }
    let is_one = table.table.len() == 1;
    let mut names = Names::new();
    for (key, info) in &table.table {
        let mut record = record(key, info, scope)?;
        if is_one {
            record.ports.clone_from(&ports);
        }
        let host = name(key, &format!("table[{key:?}]"))?;
        let record = Arc::new(record);
        for also in shorter(&host, info, scope) {
            names.push((also, Arc::clone(&record)));
        }
        for also in &info.alt_hosts {
            let also = name(also, &format!("table[{key:?}].alt_hosts"))?;
            names.push((also, Arc::clone(&record)));
        }
        names.push((host, record));
    }
    Ok(names)
}

fn record(key: &str, info: &NameInfo, scope: &Scope) -> Converted<Record> {
    let path = |field: &str| format!("table[{key:?}].{field}");
    if info.ips.len() > MAX_ADDRESSES {
        let found = info.ips.len();
        let message = format!("{found} addresses; at most {MAX_ADDRESSES}");
        return refuse(path("ips"), message);
    }
    let mut record = Record {
        host: name(key, &format!("table[{key:?}]"))?,
        ..Record::default()
    };
    if !info.shortname.is_empty() && !info.namespace.is_empty() && !record.host.contains(".svc.") {
        let host = format!("{}.{}.svc.{}", info.shortname, info.namespace, scope.domain);
        record.host = name(&host, &path("shortname"))?;
    }
    for (index, ip) in info.ips.iter().enumerate() {
        match ip.parse() {
            Ok(IpAddr::V4(ip)) if !record.v4.contains(&ip) => record.v4.push(ip),
            Ok(IpAddr::V6(ip)) if !record.v6.contains(&ip) => record.v6.push(ip),
            Ok(_) => {}
            Err(_) => {
                let path = path(&format!("ips[{index}]"));
                return refuse(path, format!("{ip:?} is no IP address"));
            }
        }
    }
    Ok(record)
}

/// Names of another domain are never made shorter: they could be somebody else's.
fn shorter(host: &str, info: &NameInfo, scope: &Scope) -> Vec<String> {
    if info.shortname.is_empty() || info.namespace.is_empty() || !scope.owns(host) {
        return Vec::new();
    }
    let (short, namespace) = (
        info.shortname.to_ascii_lowercase(),
        info.namespace.to_ascii_lowercase(),
    );
    let mut names = vec![
        format!("{short}.{namespace}.svc"),
        format!("{short}.{namespace}"),
    ];
    if namespace == scope.namespace {
        names.push(short);
    }
    names
}

fn ports_of(ports: &prost_types::Struct) -> Converted<Vec<(String, u16)>> {
    let port = |(name, value): (&String, &prost_types::Value)| {
        let number = match value.kind {
            // Exact: all u16 are.
            Some(Kind::NumberValue(number)) => {
                (1..=u16::MAX).find(|port| f64::from(*port) == number)
            }
            _ => None,
        };
        let wrong = || {
            let path = format!("metadata.outrigger.ports[{name:?}]");
            FieldError::new(path, "must be a port, 1 to 65535")
        };
        Ok((name.to_ascii_lowercase(), number.ok_or_else(wrong)?))
    };
    ports.fields.iter().map(port).collect()
}

/// Lower-case, without a last dot; `*.` may stand before it.
fn name(text: &str, path: &str) -> Converted<String> {
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let rest = host.strip_prefix("*.").unwrap_or(&host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if host.len() > MAX_NAME || !rest.split('.').all(is_label) {
        return refuse(path, format!("{text:?} is no DNS name"));
    }
    Ok(host)
}

#[cfg(test)]
mod tests;
