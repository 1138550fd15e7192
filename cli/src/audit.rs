//! `flotilla audit`: who changed what, and who was refused.

use flotilla_identity::audit::AuditRecord;
use flotilla_telemetry::clock::unix_millis;
use jiff::Timestamp;

use crate::args::AuditArgs;
use crate::client::{FleetClient, ListResponse, print_notes};
use crate::output;

/// Prints the audit log.
pub(crate) async fn run(args: AuditArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let back = u64::try_from(args.since.0.as_millis()).unwrap_or(u64::MAX);
    let since = unix_millis().saturating_sub(back);
    let query = format!("since={since}");
    let path = ["api", "v1", "audit"];
    let list: ListResponse<AuditRecord> = fleet.get_with_query(&path, &query).await?;
    print_notes(&list.notes);
    if output::print_serialized(args.output, &list.items)? {
        return Ok(());
    }
    if list.items.is_empty() {
        println!("Nothing was changed or refused in this time.");
        return Ok(());
    }
    let header = [
        "TIME",
        "PRINCIPAL",
        "ADDRESS",
        "ACTION",
        "OBJECT",
        "STATUS",
        "DIGEST",
    ];
    print!(
        "{}",
        output::table(&header, list.items.into_iter().map(row))
    );
    Ok(())
}

fn row(record: AuditRecord) -> Vec<String> {
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let millis = i64::try_from(record.at).ok();
    let time = millis.and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let digest = match (record.before, record.after) {
        (None, None) => "-".to_owned(),
        (before, after) if before == after => "unchanged".to_owned(),
        (before, after) => {
            let or_none = |digest: Option<String>| digest.unwrap_or_else(|| "none".to_owned());
            format!("{} → {}", or_none(before), or_none(after))
        }
    };
    vec![
        time.map_or_else(|| "-".to_owned(), |time| time.to_string()),
        record.principal,
        or_dash(record.address),
        record.action,
        or_dash(record.object),
        record.status.to_string(),
        digest,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_what_has_changed() {
        let record = AuditRecord {
            at: 1_000,
            controller: "c".into(),
            principal: "key ci (0123456789ab)".into(),
            address: String::new(),
            action: "DELETE /api/v1/models/m".into(),
            object: "model/m".into(),
            status: 204,
            before: Some("d".into()),
            after: None,
            lost_before: 0,
        };
        let cells = row(record.clone());
        assert_eq!(cells[0], "1970-01-01T00:00:01Z");
        assert_eq!((cells[2].as_str(), cells[6].as_str()), ("-", "d → none"));
        let same = AuditRecord {
            after: record.before.clone(),
            ..record
        };
        assert_eq!(row(same)[6], "unchanged");
    }
}
