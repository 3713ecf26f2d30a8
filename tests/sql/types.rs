//! Values of all types that an engine has, as its own client would show them.

use bindery::backend::sql::Dialect;

use super::Battery;

/// An expression and what it is shown as.
type Cases = &'static [(&'static str, Option<&'static str>)];

const POSTGRES: Cases = &[
    ("'text'::text", Some("text")),
    ("'x'::varchar(5)", Some("x")),
    ("'x'::char(3)", Some("x  ")),
    ("'x'::\"char\"", Some("x")),
    ("'x'::name", Some("x")),
    ("''", Some("")),
    ("NULL", None),
    ("NULL::int", None),
    ("NULL::numeric", None),
    ("true", Some("t")),
    ("false", Some("f")),
    ("(-32768)::int2", Some("-32768")),
    ("2147483647", Some("2147483647")),
    ("(-9223372036854775808)::int8", Some("-9223372036854775808")),
    ("4294967295::oid", Some("4294967295")),
    ("1.5::float4", Some("1.5")),
    ("1e300::float8", Some("1e+300")),
    ("'NaN'::float8", Some("NaN")),
    ("0.1::float8", Some("0.1")),
    ("123456789012345678901234567890.10::numeric", Some("123456789012345678901234567890.10")),
    ("DATE '2026-11-28'", Some("2026-11-28")),
    ("TIME '01:02:03.5'", Some("01:02:03.5")),
    ("TIMESTAMP '2026-11-28 01:02:03'", Some("2026-11-28 01:02:03")),
    ("(TIMESTAMPTZ '2026-11-28 01:02:03+00') AT TIME ZONE 'UTC'", Some("2026-11-28 01:02:03")),
    ("TIMESTAMP 'infinity'", Some("infinity")),
    ("INTERVAL '1 day 2:03:04.5'", Some("1 day 02:03:04.5")),
    ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("'192.0.2.1'::inet", Some("192.0.2.1")),
    ("'192.0.2.0/24'::cidr", Some("192.0.2.0/24")),
    ("'2001:db8::/32'::inet", Some("2001:db8::/32")),
    ("'08:00:2b:01:02:03'::macaddr", Some("08:00:2b:01:02:03")),
    ("'\\x00ff'::bytea", Some("\\x00ff")),
    ("'{\"a\":1}'::json", Some("{\"a\":1}")),
    ("'{\"a\":1}'::jsonb", Some("{\"a\": 1}")),
    ("B'101'", Some("101")),
    ("ARRAY[1,2]", Some("{1,2}")),
    ("ARRAY['a','b c']", Some("{a,\"b c\"}")),
    ("ROW(1,'x')", Some("(1,x)")),
    ("'[1,5)'::int4range", Some("[1,5)")),
    ("point(1,2)", Some("(1,2)")),
];

const MYSQL: Cases = &[
    ("'text'", Some("text")),
    ("''", Some("")),
    ("NULL", None),
    ("true", Some("1")),
    ("-128", Some("-128")),
    ("18446744073709551615", Some("18446744073709551615")),
    ("-9223372036854775808", Some("-9223372036854775808")),
    ("1.5e0", Some("1.5")),
    ("12345678901234567890.12", Some("12345678901234567890.12")),
    ("DATE '2026-11-28'", Some("2026-11-28")),
    ("TIME '01:02:03'", Some("01:02:03")),
    ("CAST('-101:02:03' AS TIME)", Some("-101:02:03")),
    ("TIMESTAMP '2026-11-28 01:02:03'", Some("2026-11-28 01:02:03")),
    ("CAST('2026-11-28 01:02:03.25' AS DATETIME(3))", Some("2026-11-28 01:02:03.250")),
    ("CAST('x' AS BINARY)", Some("x")),
    ("'ü漢🦀'", Some("ü漢🦀")),
];

const SQLITE: Cases = &[
    ("'text'", Some("text")),
    ("''", Some("")),
    ("NULL", None),
    ("true", Some("1")),
    ("-9223372036854775808", Some("-9223372036854775808")),
    ("1.5", Some("1.5")),
    ("2.0", Some("2.0")),
    ("x'41'", Some("A")),
    ("date('2026-11-28')", Some("2026-11-28")),
];

pub(crate) async fn values_are_shown_as_the_client_shows_them(battery: &mut Battery) {
    let cases = match battery.account.dialect() {
        Dialect::Postgres => POSTGRES,
        Dialect::Mysql => MYSQL,
        Dialect::Sqlite => SQLITE,
    };
    for (expression, expected) in cases {
        let told = battery.cell(&format!("SELECT {expression} -- end"), &[]).await;
        assert_eq!(told.as_deref(), *expected, "{expression}");
    }
    if battery.account.dialect() == Dialect::Postgres {
        // Types that are the server's only by name, and what is returned by a statement that writes.
        let mood = "DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'ok')";
        battery.database.script(mood).await.unwrap();
        assert_eq!(battery.cell("SELECT 'ok'::mood", &[]).await.as_deref(), Some("ok"));
        let write = "UPDATE users SET expires='2026-11-28 00:00:00+00' WHERE username='${u}' \
                     RETURNING expires AT TIME ZONE 'UTC' AS at, username";
        let rows = battery.run(write, &[("u", "100")]).await;
        assert_eq!((rows.value(0, "at"), rows.affected), (Some("2026-11-28 00:00:00"), 1));
        // A parameter whose type nothing tells.
        let any = "SELECT json_build_object('a', '${a}', 'b', '${b}')";
        let told = battery.cell(any, &[("a", "x"), ("b", "y")]).await;
        assert_eq!(told.as_deref(), Some("{\"a\" : \"x\", \"b\" : \"y\"}"));
    }
}
