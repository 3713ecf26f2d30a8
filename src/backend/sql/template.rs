//! Yate's query templates as prepared statements.
//!
//! Yate pastes escaped text into a query. Here the text of a query never depends on a message:
//! each literal with a `${}` in it, and each `${}` outside of literals, becomes one parameter of a
//! prepared statement, put together from the template's own text and the message's values when the
//! query is run ([`Statements::bind`]).
//!
//! A template may hold several statements. They run in one transaction, as PostgreSQL runs what
//! Yate sends it in one string; a `BEGIN` and a `COMMIT` that are written are left out for that
//! reason. The result has the rows of the last statement that returns columns and the count of the
//! last that changes rows: what Yate's drivers keep, so that its own
//! `BEGIN; SELECT ...; UPDATE ...; COMMIT` gives the rows of the `SELECT`.

use std::fmt;
use std::sync::Arc;

use super::dialect::Dialect;
use super::lexer::{Kind, Piece, Placeholder, Token, is_word, tokens};
use super::params::{Bound, Params, Value};
use super::rows::Rows;

/// A template, compiled for one engine. A clone costs next to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    dialect: Dialect,
    template: Arc<str>,
    list: Arc<[Statement]>,
}

/// One statement of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    sql: Box<str>,
    slots: Box<[Slot]>,
    /// Whether it only reads, so that to run it twice does no harm.
    reads: bool,
    /// Whether it changes rows, and so has a count.
    counts: bool,
}

/// How the value of one parameter is put together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    pieces: Box<[Piece]>,
    bare: bool,
}

/// A template that can't be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{template}`, column {column}: expected {expected}")]
pub struct TemplateError {
    /// The template.
    pub template: String,
    /// The character, counted from one, at which something else was expected.
    pub column: usize,
    /// What was expected there.
    pub expected: String,
}

impl TemplateError {
    /// An error at an octet of the template.
    pub(super) fn new(template: &str, at: usize, expected: impl Into<String>) -> Self {
        let column = template.get(..at).unwrap_or(template).chars().count() + 1;
        Self { template: template.to_owned(), column, expected: expected.into() }
    }
}

impl Statements {
    /// Compiles a template.
    ///
    /// # Errors
    /// Something that starts doesn't end, a `${}` stands where no value can, there is no statement
    /// at all, or one would end the transaction that all of them run in.
    pub fn compile(template: &str, dialect: Dialect) -> Result<Self, TemplateError> {
        let tokens = tokens(template, dialect)?;
        let compiler = Compiler { template, dialect, tokens: &tokens };
        let list: Vec<Statement> = tokens
            .split(|token| token.kind == Kind::Semicolon)
            .map(|tokens| compiler.statement(tokens))
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        if list.is_empty() {
            return Err(TemplateError::new(template, 0, "an SQL statement"));
        }
        Ok(Self { dialect, template: template.into(), list: list.into() })
    }

    /// The engine it was compiled for.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What was compiled.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// The statements, in order; at least one.
    pub fn list(&self) -> &[Statement] {
        &self.list
    }

    /// Whether nothing is written, so that to run it twice does no harm.
    pub fn only_read(&self) -> bool {
        self.list.iter().all(|statement| statement.reads)
    }

    /// The names of the parameters it asks for, in order, repeated as they are.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        let pieces = self.list.iter().flat_map(|statement| &statement.slots);
        pieces.flat_map(|slot| &slot.pieces).filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Parameter(Placeholder { name, .. }) => Some(&**name),
        })
    }

    /// The answer of all statements, from the answer of each.
    pub(super) fn merge(&self, parts: Vec<Rows>) -> Rows {
        let mut all = Rows::default();
        for (statement, part) in self.list.iter().zip(parts) {
            if !part.columns.is_empty() {
                (all.columns, all.rows) = (part.columns, part.rows);
            }
            if statement.counts {
                all.affected = part.affected;
            }
        }
        all
    }

    /// The values of all parameters for one message.
    pub fn bind<P: Params + ?Sized>(&self, params: &P) -> Bound {
        let slots = |statement: &Statement| -> Box<[Value]> {
            statement.slots.iter().map(|slot| slot.value(params)).collect()
        };
        Bound { statements: self.list.iter().map(slots).collect() }
    }
}

impl Statement {
    /// The text that is sent to the server, whatever the message.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Whether it changes rows, so that its count of them matters.
    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// How many parameters it has.
    pub fn parameter_count(&self) -> usize {
        self.slots.len()
    }
}

impl Slot {
    fn value<P: Params + ?Sized>(&self, params: &P) -> Value {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Parameter(Placeholder { name, default }) => match params.get(name) {
                    Some(value) => text.push_str(&value),
                    None => text.push_str(default),
                },
            }
        }
        Value { text: text.into(), bare: self.bare }
    }
}

/// Words before which a value makes no sense: a name would have to stand there.
const NAMED: [&str; 5] = ["by", "into", "join", "table", "update"];

/// Words that start what is left out: all statements run in one transaction anyway.
const TRANSACTION: [&str; 4] = ["begin", "commit", "end", "start"];

/// Words that start what would break that transaction.
const NO_TRANSACTION: [&str; 4] = ["abort", "release", "rollback", "savepoint"];

/// Words that start a statement which changes rows.
const COUNTS: [&str; 6] = ["delete", "insert", "merge", "replace", "update", "with"];

/// Words that start a statement which only reads.
const READS: [&str; 4] = ["select", "show", "table", "values"];

/// Fields that may follow an interval's literal. PostgreSQL's cast of a parameter would ignore
/// them, so they become part of the text.
const FIELDS: [&str; 6] = ["year", "month", "day", "hour", "minute", "second"];

struct Compiler<'t> {
    template: &'t str,
    dialect: Dialect,
    tokens: &'t [Token],
}

/// A statement while it is written.
#[derive(Default)]
struct Draft {
    sql: String,
    slots: Vec<Slot>,
    /// The words right before, in lower case, with the place in `sql` of each.
    words: Vec<(String, usize)>,
}

impl Draft {
    fn words(&self) -> Vec<&str> {
        self.words.iter().map(|(word, _)| &**word).collect()
    }

    fn push(&mut self, text: &str) {
        // `LIKE$1` would be a name, `$1AND` no parameter.
        let joins = |byte: Option<&u8>| byte.is_some_and(|byte| is_word(*byte) || *byte == b'$');
        if joins(self.sql.as_bytes().last()) && joins(text.as_bytes().first()) {
            self.sql.push(' ');
        }
        self.sql.push_str(text);
    }
}

impl<'t> Compiler<'t> {
    fn text(&self, token: &Token) -> &'t str {
        self.template.get(token.start..token.end).unwrap_or_default()
    }

    fn fail<T>(&self, token: &Token, expected: &str) -> Result<T, TemplateError> {
        Err(TemplateError::new(self.template, token.start, expected))
    }

    /// One statement; `None` if nothing is to be run.
    fn statement(&self, tokens: &[Token]) -> Result<Option<Statement>, TemplateError> {
        let Some(first) = tokens.iter().find(|token| token.kind != Kind::Space) else {
            return Ok(None);
        };
        let command = self.text(first).to_ascii_lowercase();
        if TRANSACTION.contains(&&*command) {
            return Ok(None);
        }
        if NO_TRANSACTION.contains(&&*command) {
            let what = "a statement that may stand in the one transaction all of them run in";
            return self.fail(first, what);
        }
        let mut draft = Draft::default();
        let mut rest = tokens.iter();
        while let Some(token) = rest.next() {
            let text = self.text(token);
            match &token.kind {
                Kind::Space => draft.push(text),
                Kind::Word => {
                    draft.push(text);
                    let start = draft.sql.len() - text.len();
                    draft.words.push((text.to_ascii_lowercase(), start));
                }
                Kind::Literal(literal) if literal.has_parameters() => {
                    if !literal.bindable {
                        let what = "a text literal without a prefix: only text can be bound";
                        return self.fail(token, what);
                    }
                    self.value(&mut draft, literal.pieces.clone(), false, &mut rest)?;
                    draft.words.clear();
                }
                Kind::Bare(placeholder) => {
                    self.check_bare(token, &draft)?;
                    let pieces = vec![Piece::Parameter(placeholder.clone())];
                    self.value(&mut draft, pieces, true, &mut rest)?;
                    draft.words.clear();
                }
                Kind::Literal(_) | Kind::Name | Kind::Sign(_) | Kind::Semicolon => {
                    draft.push(text);
                    draft.words.clear();
                }
            }
        }
        let Draft { sql, slots, .. } = draft;
        Ok(Some(Statement {
            sql: sql.trim().into(),
            slots: slots.into(),
            counts: COUNTS.contains(&&*command),
            reads: READS.contains(&&*command) && !self.locks(tokens),
        }))
    }

    /// Whether a statement that reads takes locks or writes all the same (`FOR UPDATE`, `INTO`).
    fn locks(&self, tokens: &[Token]) -> bool {
        let word = |token: &Token| token.kind == Kind::Word;
        let locks = |token: &Token| {
            ["update", "share", "into"]
                .iter()
                .any(|word| self.text(token).eq_ignore_ascii_case(word))
        };
        tokens.iter().any(|token| word(token) && locks(token))
    }

    /// Refuses a `${}` that could only be a name or a part of one.
    fn check_bare(&self, token: &Token, draft: &Draft) -> Result<(), TemplateError> {
        let glued = |other: &&Token| {
            matches!(
                other.kind,
                Kind::Word | Kind::Name | Kind::Literal(_) | Kind::Bare(_) | Kind::Sign(b'.')
            )
        };
        let before = self.tokens.iter().find(|other| other.end == token.start);
        let after = self.tokens.iter().find(|other| other.start == token.end);
        let calls = after.is_some_and(|after| after.kind == Kind::Sign(b'('));
        if before.filter(glued).or_else(|| after.filter(glued)).is_some() || calls {
            return self.fail(token, "a value: a ${} can't be a name or a part of something");
        }
        if draft.words.last().is_some_and(|(word, _)| NAMED.contains(&&**word)) {
            return self.fail(token, "a name: only values can be ${}");
        }
        Ok(())
    }

    /// Writes the marker of a new parameter, with a cast where a typed literal stood.
    fn value(
        &self,
        draft: &mut Draft,
        mut pieces: Vec<Piece>,
        bare: bool,
        rest: &mut std::slice::Iter<'_, Token>,
    ) -> Result<(), TemplateError> {
        let typed = if bare { None } else { self.dialect.typed_literal(&draft.words()) };
        let marker = self.dialect.marker(draft.slots.len() + 1);
        match typed {
            None => draft.push(&marker),
            Some((kind, words)) => {
                let first = draft.words.len() - words;
                if let Some((_, start)) = draft.words.get(first) {
                    draft.sql.truncate(*start);
                }
                if kind == "interval"
                    && let Some(field) = self.interval_field(rest)?
                {
                    pieces.push(Piece::Text(format!(" {field}")));
                }
                draft.push(&format!("CAST({marker} AS {})", kind.to_ascii_uppercase()));
            }
        }
        draft.slots.push(Slot { pieces: pieces.into(), bare });
        Ok(())
    }

    /// Takes the field that follows an interval's literal, as in `INTERVAL '5' MINUTE`.
    fn interval_field(
        &self,
        rest: &mut std::slice::Iter<'_, Token>,
    ) -> Result<Option<&'static str>, TemplateError> {
        let mut ahead = rest.clone();
        let significant =
            |tokens: &mut std::slice::Iter<'_, Token>| -> Option<(&'t str, Option<Token>)> {
                let token = tokens.find(|token| token.kind != Kind::Space)?;
                Some((self.text(token), Some(token.clone())))
            };
        let Some((word, _)) = significant(&mut ahead) else { return Ok(None) };
        let Some(field) = FIELDS.into_iter().find(|field| field.eq_ignore_ascii_case(word)) else {
            return Ok(None);
        };
        if let Some(("to" | "TO" | "(", Some(token))) = significant(&mut ahead.clone()) {
            return self.fail(&token, "a single field after the interval");
        }
        *rest = ahead;
        Ok(Some(field))
    }
}

impl fmt::Display for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.template)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each statement with the values it has for these parameters, or the error without template.
    fn compiled(template: &str, dialect: Dialect, params: &[(&str, &str)]) -> Vec<String> {
        let statements = match Statements::compile(template, dialect) {
            Ok(statements) => statements,
            Err(error) => {
                assert_eq!(error.template, template);
                return vec![format!("{}: {}", error.column, error.expected)];
            }
        };
        let bound = statements.bind(params);
        let list = statements.list().iter().enumerate();
        list.map(|(position, statement)| {
            let values = bound.values(position).iter();
            let values: Vec<String> = values
                .map(|value| format!("{}{:?}", if value.bare { "bare " } else { "" }, value.text))
                .collect();
            assert_eq!(values.len(), statement.parameter_count());
            if values.is_empty() {
                statement.sql().to_owned()
            } else {
                format!("{} <- {}", statement.sql(), values.join(", "))
            }
        })
        .collect()
    }

    fn check(cases: &[(Dialect, &str, &[&str])]) {
        let params = [
            ("a", "A"),
            ("b", "it's"),
            ("n", "60"),
            ("empty", ""),
            ("username", "100"),
            ("data", "sip/sip:100@192.0.2.1"),
            ("expires", "600"),
        ];
        for (dialect, template, expected) in cases {
            assert_eq!(compiled(template, *dialect, &params), *expected, "{dialect}: {template}");
        }
    }

    const P: Dialect = Dialect::Postgres;
    const M: Dialect = Dialect::Mysql;
    const S: Dialect = Dialect::Sqlite;

    #[test]
    fn literals_become_parameters() {
        check(&[
            (P, "SELECT '${a}'", &[r#"SELECT $1 <- "A""#]),
            (M, "SELECT '${a}', \"x${b}\"", &[r#"SELECT ?, ? <- "A", "xit's""#]),
            (S, "SELECT '${a}' , '${a}'", &[r#"SELECT ?1 , ?2 <- "A", "A""#]),
            (P, "f('sip:${a}@${b}', '${', '')", &["21: the } that ends this ${"]),
            (P, "SELECT 'sip:${a}@${b}','x'", &[r#"SELECT $1,'x' <- "sip:A@it's""#]),
            (P, "SELECT 'it''s ${a}'''", &[r#"SELECT $1 <- "it's A'""#]),
            (P, r"SELECT '\n${a}\'", &[r#"SELECT $1 <- "\\nA\\""#]),
            (P, r"SELECT E'\n\x41\102\u00e9\'${a}\\'", &[r#"SELECT $1 <- "\nABé'A\\""#]),
            (M, r"SELECT '\n\'\%\\${a}\q'", &[r#"SELECT ? <- "\n'\\%\\Aq""#]),
            (M, r"SELECT 'a\'b', '${a}'", &[r#"SELECT 'a\'b', ? <- "A""#]),
            (P, r"SELECT 'a\', '${a}'", &[r#"SELECT 'a\', $1 <- "A""#]),
            (P, "SELECT $x$it's ${a}$x$, $$;$$", &[r#"SELECT $1, $$;$$ <- "it's A""#]),
            (P, "SELECT $$${a}$$", &[r#"SELECT $1 <- "A""#]),
            (P, "a LIKE'${a}'AND b", &[r#"a LIKE $1 AND b <- "A""#]),
            (P, "SELECT '${a}'::inet", &[r#"SELECT $1::inet <- "A""#]),
            (P, "SELECT 'é${a}' -- ü", &[r#"SELECT $1 -- ü <- "éA""#]),
        ]);
    }

    #[test]
    fn a_default_stands_for_what_is_missing_only() {
        check(&[
            (P, "SELECT '${none$d}'", &[r#"SELECT $1 <- "d""#]),
            (P, "SELECT '${ none $ it's }'", &[r#"SELECT $1 <- "it's""#]),
            (P, "SELECT '${empty$d}'", &[r#"SELECT $1 <- """#]),
            (P, "SELECT '${none}'", &[r#"SELECT $1 <- """#]),
            (P, "SELECT ${none$0}", &[r#"SELECT $1 <- bare "0""#]),
        ]);
    }

    #[test]
    fn typed_literals_become_casts() {
        check(&[
            (
                P,
                "SELECT TIMESTAMP 'EPOCH' + INTERVAL '${n} s'",
                &[r#"SELECT TIMESTAMP 'EPOCH' + CAST($1 AS INTERVAL) <- "60 s""#],
            ),
            (P, "SELECT interval'${n}'minute", &[r#"SELECT CAST($1 AS INTERVAL) <- "60 minute""#]),
            (P, "SELECT INTERVAL '${n}' DAY TO HOUR", &["28: a single field after the interval"]),
            (
                P,
                "SELECT timestamp  with time zone '${a}'",
                &[r#"SELECT CAST($1 AS TIMESTAMP WITH TIME ZONE) <- "A""#],
            ),
            (P, "SELECT x AT TIME ZONE '${a}'", &[r#"SELECT x AT TIME ZONE $1 <- "A""#]),
            (P, "SELECT x WHERE y LIKE '${a}'", &[r#"SELECT x WHERE y LIKE $1 <- "A""#]),
            (M, "SELECT TIMESTAMP '${a}'", &[r#"SELECT CAST(? AS DATETIME) <- "A""#]),
            (
                M,
                "SELECT NOW()+INTERVAL '${n}' SECOND",
                &[r#"SELECT NOW()+INTERVAL ? SECOND <- "60""#],
            ),
            (
                M,
                "SELECT NOW()+INTERVAL ${n} SECOND",
                &[r#"SELECT NOW()+INTERVAL ? SECOND <- bare "60""#],
            ),
            (S, "SELECT date '${a}'", &[r#"SELECT date ?1 <- "A""#]),
        ]);
    }

    #[test]
    fn bare_parameters_are_bound_where_a_value_can_stand() {
        check(&[
            (P, "SELECT now()+${n}*2", &[r#"SELECT now()+$1*2 <- bare "60""#]),
            (P, "SELECT(${n})", &[r#"SELECT($1) <- bare "60""#]),
            (P, "SELECT ${n}::int", &[r#"SELECT $1::int <- bare "60""#]),
            (
                P,
                "SELECT * FROM t${n}",
                &["16: a value: a ${} can't be a name or a part of something"],
            ),
            (P, "SELECT ${a}.x", &["8: a value: a ${} can't be a name or a part of something"]),
            (P, "SELECT ${a}(1)", &["8: a value: a ${} can't be a name or a part of something"]),
            (P, "SELECT ${a}${b}", &["8: a value: a ${} can't be a name or a part of something"]),
            (P, "UPDATE ${a} SET x=1", &["8: a name: only values can be ${}"]),
            (P, "SELECT 1 ORDER BY ${a}", &["19: a name: only values can be ${}"]),
        ]);
    }

    #[test]
    fn what_cannot_be_bound_is_refused_with_its_column() {
        check(&[
            (P, "SELECT \"${a}\"", &["9: a value: no ${} can stand in a name"]),
            (S, "SELECT [x${a}]", &["10: a value: no ${} can stand in a name"]),
            (M, "SELECT `é${a}`", &["10: a value: no ${} can stand in a name"]),
            (P, "SELECT 1 -- ${a}", &["13: no ${} in a comment"]),
            (M, "SELECT 1 # ${a}", &["12: no ${} in a comment"]),
            (P, "SELECT /* ${a} */ 1", &["11: no ${} in a comment"]),
            (P, "SELECT /* /* */ 1", &["8: the */ that ends this comment"]),
            (P, "SELECT 'x", &["8: the ' that ends this literal"]),
            (P, "SELECT \"x", &["8: the \" that ends this name"]),
            (P, "SELECT $$x", &["8: the $$ that ends this literal"]),
            (P, "SELECT '${a$${b}}'", &["13: the } that ends the ${ before this one"]),
            (P, "SELECT '${ }'", &["11: the name of a parameter"]),
            (P, "SELECT X'${a}'", &["8: a text literal without a prefix: only text can be bound"]),
            (P, "SELECT U&'${a}'", &["8: a text literal without a prefix: only text can be bound"]),
            (
                M,
                "SELECT _utf8'${a}'",
                &["8: a text literal without a prefix: only text can be bound"],
            ),
            (M, r"SELECT '\${a}'", &["9: no backslash before ${"]),
            (M, "SELECT ?", &["8: ${name} instead of a MySQL marker"]),
            (P, "SELECT $1", &["8: ${name} instead of a PostgreSQL marker"]),
            (S, "SELECT :a", &["8: ${name} instead of a SQLite marker"]),
            (P, "SELECT a ? 'b'", &["SELECT a ? 'b'"]),
            (P, " ; -- nothing\n;", &["1: an SQL statement"]),
            (
                P,
                "SELECT 1; ROLLBACK",
                &["11: a statement that may stand in the one transaction all of them run in"],
            ),
        ]);
    }

    #[test]
    fn statements_are_split_outside_of_quotes_and_comments() {
        check(&[
            (P, "SELECT 1; SELECT ';' /* ; */ ;\n", &["SELECT 1", "SELECT ';' /* ; */"]),
            (
                P,
                "SELECT '${a};'; SELECT '${b}'",
                &[r#"SELECT $1 <- "A;""#, r#"SELECT $1 <- "it's""#],
            ),
            (M, "SELECT 'a\\';'; SELECT 5--3;", &["SELECT 'a\\';'", "SELECT 5--3"]),
            (P, "BEGIN; SELECT 1; COMMIT", &["SELECT 1"]),
            (S, "SELECT \";\", `;`, [;]", &["SELECT \";\", `;`, [;]"]),
        ]);
    }

    /// Yate's `register.conf.sample`, the queries that a registrar runs.
    #[test]
    fn the_queries_that_yate_ships_compile() {
        check(&[
            (
                P,
                "SELECT password FROM users WHERE username='${username}' AND password IS NOT NULL AND password<>''",
                &[
                    r#"SELECT password FROM users WHERE username=$1 AND password IS NOT NULL AND password<>'' <- "100""#,
                ],
            ),
            (
                P,
                "UPDATE users SET location='${data}',expires=CURRENT_TIMESTAMP + INTERVAL '${expires} s' WHERE username='${username}'",
                &[
                    r#"UPDATE users SET location=$1,expires=CURRENT_TIMESTAMP + CAST($2 AS INTERVAL) WHERE username=$3 <- "sip/sip:100@192.0.2.1", "600 s", "100""#,
                ],
            ),
            (
                P,
                "INSERT INTO cdr VALUES(TIMESTAMP 'EPOCH' + INTERVAL '${time} s','${chan}',INTERVAL '${duration} s',false)",
                &[
                    r#"INSERT INTO cdr VALUES(TIMESTAMP 'EPOCH' + CAST($1 AS INTERVAL),$2,CAST($3 AS INTERVAL),false) <- " s", "", " s""#,
                ],
            ),
            (
                P,
                "BEGIN; SELECT (CASE WHEN enabled IS FALSE THEN 'logout' ELSE 'login' END) AS operation FROM accounts WHERE modified IS TRUE; UPDATE accounts SET modified=FALSE; COMMIT",
                &[
                    "SELECT (CASE WHEN enabled IS FALSE THEN 'logout' ELSE 'login' END) AS operation FROM accounts WHERE modified IS TRUE",
                    "UPDATE accounts SET modified=FALSE",
                ],
            ),
        ]);
    }

    #[test]
    fn what_only_reads_is_known() {
        let reads = |template| Statements::compile(template, P).unwrap().only_read();
        assert!(reads(" -- all\n select * from users"));
        assert!(reads("SELECT 1; VALUES (2)"));
        assert!(!reads("SELECT 1; UPDATE users SET inuse=0"));
        assert!(!reads("SELECT * FROM users FOR UPDATE"));
        assert!(!reads("WITH x AS (DELETE FROM users RETURNING *) SELECT * FROM x"));
    }

    #[test]
    fn parameters_are_told_by_name() {
        let statements = Statements::compile("SELECT '${a}${b.c$x}', ${a}", P).unwrap();
        assert_eq!(statements.parameters().collect::<Vec<_>>(), ["a", "b.c", "a"]);
    }

    fn hostile() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[';\"\\\\${}$`\\-\\-/*?:@\\x00 a1é]{0,20}",
            Just("'; DROP TABLE users; --".to_owned()),
            Just("\\'; DROP TABLE users; --".to_owned()),
            Just("${username}".to_owned()),
        ]
    }

    proptest! {
        /// The text that is sent can't depend on values, and they arrive as they are.
        #[test]
        fn no_value_becomes_text_of_a_statement(a in hostile(), b in hostile()) {
            for dialect in [P, M, S] {
                let template = "UPDATE users SET location='sip/${a}@${b}' WHERE username='${b}' AND n=${a}";
                let statements = Statements::compile(template, dialect).unwrap();
                let before: Vec<_> = statements.list().iter().map(|s| s.sql().to_owned()).collect();
                let bound = statements.bind(&[("a", &a), ("b", &b)]);
                let after: Vec<_> = statements.list().iter().map(|s| s.sql().to_owned()).collect();
                prop_assert_eq!(before, after);
                let values: Vec<_> = bound.values(0).iter().map(|v| v.text.to_string()).collect();
                prop_assert_eq!(values, [format!("sip/{a}@{b}"), b.clone(), a.clone()]);
            }
        }

        /// Whatever is written, compiling ends; and what compiles keeps its parameters.
        #[test]
        fn any_text_compiles_or_is_refused(template in hostile()) {
            for dialect in [P, M, S] {
                match Statements::compile(&template, dialect) {
                    Ok(statements) => {
                        let bound = statements.bind(&());
                        prop_assert_eq!(bound.statements.len(), statements.list().len());
                    }
                    Err(error) => prop_assert!(error.column <= template.chars().count() + 1),
                }
            }
        }
    }
}
