//! Values from MySQL as text.

use mysql_async::consts::ColumnType;
use mysql_async::{Column, Value};

/// How the values of a column are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    kind: ColumnType,
    /// Digits after the second's point.
    decimals: usize,
}

impl Shown {
    pub(super) fn of(column: &Column) -> Self {
        Self { kind: column.column_type(), decimals: usize::from(column.decimals().min(6)) }
    }

    /// The value as the engine's own client would show it.
    pub(super) fn text(self, value: Value) -> Option<Box<str>> {
        let text = match value {
            Value::NULL => return None,
            Value::Bytes(bytes) if self.kind == ColumnType::MYSQL_TYPE_BIT => {
                let bits = bytes.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
                bits.to_string()
            }
            Value::Bytes(bytes) => String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
            Value::Int(integer) => integer.to_string(),
            Value::UInt(integer) => integer.to_string(),
            Value::Float(real) => real.to_string(),
            Value::Double(real) => real.to_string(),
            Value::Date(year, month, day, hour, minute, second, micros) => {
                let date = format!("{year:04}-{month:02}-{day:02}");
                if self.kind == ColumnType::MYSQL_TYPE_DATE {
                    date
                } else {
                    let fraction = self.fraction(micros);
                    format!("{date} {hour:02}:{minute:02}:{second:02}{fraction}")
                }
            }
            Value::Time(negative, days, hours, minutes, seconds, micros) => {
                let sign = if negative { "-" } else { "" };
                let hours = u64::from(days) * 24 + u64::from(hours);
                let fraction = self.fraction(micros);
                format!("{sign}{hours:02}:{minutes:02}:{seconds:02}{fraction}")
            }
        };
        Some(text.into())
    }

    fn fraction(self, micros: u32) -> String {
        match format!("{micros:06}").get(..self.decimals) {
            Some(digits) if !digits.is_empty() => format!(".{digits}"),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_the_client_shows_them() {
        use ColumnType::{MYSQL_TYPE_BIT, MYSQL_TYPE_DATE, MYSQL_TYPE_DATETIME, MYSQL_TYPE_TIME};
        let cases = [
            (MYSQL_TYPE_DATE, 0, Value::Date(2026, 1, 2, 0, 0, 0, 0), "2026-01-02"),
            (MYSQL_TYPE_DATETIME, 0, Value::Date(2026, 1, 2, 0, 0, 0, 0), "2026-01-02 00:00:00"),
            (
                MYSQL_TYPE_DATETIME,
                3,
                Value::Date(1, 2, 3, 4, 5, 6, 7000),
                "0001-02-03 04:05:06.007",
            ),
            (MYSQL_TYPE_TIME, 0, Value::Time(true, 1, 2, 3, 4, 0), "-26:03:04"),
            (MYSQL_TYPE_BIT, 0, Value::Bytes(vec![1, 2]), "258"),
            (MYSQL_TYPE_DATE, 0, Value::Bytes(b"x".to_vec()), "x"),
        ];
        for (kind, decimals, value, expected) in cases {
            let told = format!("{value:?}");
            assert_eq!(Shown { kind, decimals }.text(value).as_deref(), Some(expected), "{told}");
        }
        assert_eq!(Shown { kind: MYSQL_TYPE_DATE, decimals: 0 }.text(Value::NULL), None);
    }
}
