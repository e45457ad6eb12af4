#!/usr/bin/env python3
"""ia3 called through drivers: every function with plain parameters, and the examples of docs/drivers.md.

    run.py --socket DIR

talks to a running cluster as its superuser, in a database of its own, and prints TAP. psycopg2, psycopg and asyncpg have to be
installed (requirements.txt). The example for node-postgres runs where `node` finds the module pg (NODE_PATH), the one for JDBC where
$IA3_JDBC is the driver's jar; otherwise they are skipped.
"""

import argparse
import os
import re

import drivers
import examples
from drivers import ClientError, Fields, ServerError

DATABASE = "ia3_drivers"
TEXT = "the invoice is wrong"
PROMPT = "Great film! Is it good or bad?"
CHOICES = ["bug", "billing"]
MAIL = Fields(subject="Start", body="the app crashes and \u00e4\u00f6\u00fc \"quotes\"")
SHOTS = "SELECT body AS text, label FROM shots"
MAILS = "SELECT subject, body, label FROM shots"

CONFIG = Fields(model_type="t5", vocab_size=100, d_model=8, d_kv=2, num_heads=4, d_ff=16, num_layers=2)

# (function, arguments, the function that SQL calls with jsonb, text and text[]; None: the same)
CALLS = [
    ("ia3_version", [], None),
    ("ia3_predict", ["tickets", TEXT], None),
    ("ia3_predict", ["tickets@1", TEXT, CHOICES], None),
    ("ia3_predict_fields", ["mails", MAIL], "ia3_predict"),
    ("ia3_predict_fields", ["mails", MAIL, CHOICES], "ia3_predict"),
    ("ia3_predict", ["tickets", TEXT, CHOICES, 0.1], None),
    ("ia3_predict", ["tickets", TEXT, CHOICES, 1.0], None),
    ("ia3_predict_fields", ["mails", MAIL, CHOICES, 0.1], "ia3_predict"),
    ("ia3_predict_zero_shot", [PROMPT, ["good", "bad"]], "ia3_predict"),
    ("ia3_zero_shot", [PROMPT, ["good", "bad"]], "ia3_predict"),
    ("ia3_classify", ["tickets", TEXT], None),
    ("ia3_classify", ["tickets", TEXT, CHOICES], None),
    ("ia3_classify", ["tickets", TEXT, ["a > b", "a > c", "d"], 1], None),
    ("ia3_classify", ["tickets", TEXT, ["a/b", "a/c", "d"], 1, "/"], None),
    ("ia3_classify_fields", ["mails", MAIL], "ia3_classify"),
    ("ia3_classify_fields", ["mails", MAIL, CHOICES], "ia3_classify"),
    ("ia3_classify_fields", ["mails", MAIL, ["a > b", "a > c", "d"], 1], "ia3_classify"),
    ("ia3_classify_zero_shot", [PROMPT, ["good", "bad, or not", 'a "quoted" one']], "ia3_classify"),
    ("ia3_generate", ["tickets", TEXT], None),
    ("ia3_generate", ["tickets", TEXT, 8], None),
    ("ia3_generate", ["tickets", TEXT, 8, 0.7, 10, 5], None),
    ("ia3_generate", ["tickets", TEXT, 8, 1.0, 0, 2**40], None),
    ("ia3_generate_fields", ["mails", MAIL], "ia3_generate"),
    ("ia3_generate_fields", ["mails", MAIL, 8], "ia3_generate"),
    ("ia3_generate_fields", ["mails", MAIL, 8, 0.7, 10, 5], "ia3_generate"),
    ("ia3_generate_zero_shot", [PROMPT], "ia3_generate"),
    ("ia3_generate_zero_shot", [PROMPT, 8], "ia3_generate"),
    ("ia3_generate_zero_shot", [PROMPT, 8, 0.7, 10, 5], "ia3_generate"),
    ("ia3_confusion", ["mails", MAILS], None),
    ("ia3_class_report", ["mails", MAILS], None),
    ("ia3_coverage_curve", ["mails", MAILS], None),
    ("ia3_plot", ["tickets"], None),
    ("ia3_plot_version", ["tickets", 1], "ia3_plot"),
    ("ia3_sparkline", ["[8, 4, 2, 1]"], None),
    ("ia3_render", ["{subject}: {body}", MAIL], None),
    ("ia3_render", ["{body} {choices}?", MAIL, CHOICES], None),
    ("ia3_tokenize", [TEXT], None),
    ("ia3_tokenize", [TEXT, "default"], None),
    ("ia3_backbone_config", ["default"], None),
    ("ia3_export", ["tickets"], None),
    ("ia3_export_config", ["tickets@1"], None),
]

# Statements: the parameters, and the same with literals
STATEMENTS = [
    ("SELECT n, accuracy, macro_f1, mean_score_gap FROM ia3_evaluate({}, {})", ["tickets", SHOTS]),
    ("SELECT * FROM ia3_compare({}, {}, {})", ["tickets", "tickets@1", SHOTS]),
    ("SELECT ia3_predict({}, {}, min_probability => {})", ["tickets", TEXT, 0.1]),
    ("SELECT ia3_predict({}, {}, min_probability => {})", ["tickets", TEXT, 1.0]),
    ("SELECT ia3_predict({}, {}, choices => {}, min_probability => {})", ["tickets@1", TEXT, CHOICES, 0.1]),
    ("SELECT ia3_predict_fields({}, {}, min_probability => {})", ["mails", MAIL, 0.1]),
    ("SELECT ia3_predict_window({}, body, min_probability => {}) OVER (ORDER BY body) FROM shots", ["tickets", 1.0]),
    ("SELECT ia3_predict_window_fields({}, to_json(s), {}, {}) OVER (ORDER BY body) FROM shots s", ["mails", CHOICES, 0.1]),
    ("SELECT n, answered, accuracy_answered FROM ia3_evaluate({}, {}, {})", ["tickets", SHOTS, 0.9]),
    ("SELECT n, answered FROM ia3_evaluate({}, {}, min_probability => {})", ["tickets", SHOTS, 0.0]),
    ("SELECT ia3_predict_window({}, body) OVER (ORDER BY body) FROM shots", ["tickets"]),
    ("SELECT ia3_predict_window({}, body, {}) OVER (ORDER BY body) FROM shots", ["tickets", CHOICES]),
    ("SELECT ia3_predict_window_fields({}, to_json(s)) OVER (ORDER BY body) FROM shots s", ["mails"]),
    ("SELECT ia3_predict_window_fields({}, {}, {}) OVER (ORDER BY body) FROM shots s", ["mails", MAIL, CHOICES]),
    ("SELECT ia3_predict_window_zero_shot(body, {}) OVER (ORDER BY body) FROM shots", [CHOICES]),
    ("SELECT ia3_predict({}, body) FROM shots WHERE ia3_zero_shot(body, {}) IS NOT NULL ORDER BY body", ["tickets", CHOICES]),
    ("SELECT ia3_plot({}, {}) LIKE '<svg%'", ["tickets", SHOTS]),
    ("SELECT * FROM ia3_cost({})", ["tickets"]),
    ("SELECT * FROM ia3_cost(config => {}::jsonb, method => {}, rank => {}, alpha => {})", [CONFIG, "lora", 8, 2.5]),
    ("SELECT * FROM ia3_cost(config => {}::jsonb, tokens => {}, method => {})", [CONFIG, 60, "ia3"]),
    ("SELECT * FROM ia3_cost(config => {}::jsonb, method => {}, keep_ratio => {})", [CONFIG, "fish", 0.01]),
    ("SELECT backbone, state FROM ia3_stat_engine()", []),
    ("SELECT ia3_ready()", []),
    ("SELECT ia3_ready({})", ["default"]),
    ("SELECT task FROM ia3_stat_progress_train()", []),
    ("SELECT task FROM ia3_stat_progress_label()", []),
]

# (call, arguments, the SQLSTATE and the function that the hint names; None: asyncpg or psycopg2 answer otherwise)
MISTAKES = [
    ("ia3_predict({}, {})", [PROMPT, ["good", "bad"]], ("42704", "ia3_zero_shot"), ("psycopg",)),
    ("ia3_classify({}, {})", [PROMPT * 20, ["good", "bad"]], ("42602", "ia3_classify_zero_shot"), ("psycopg",)),
    ("ia3_predict({}, {})", ["mails", '{"subject": "a", "body": "b"}'], ("22023", "ia3_predict_fields"), None),
    ("ia3_classify({}, {}, {})", ["mails", '{"subject": "a", "body": "b"}', CHOICES], ("22023", "ia3_classify_fields"), None),
    ("ia3_generate({}, {}, {})", ["mails", '{"subject": "a", "body": "b"}', 8], ("22023", "ia3_generate_fields"), None),
    ("ia3_generate({}, {})", [PROMPT, "8"], ("42704", "ia3_generate_zero_shot"), None),
    ("ia3_cost({})", ['{"model_type": "t5"}'], ("22023", "config =>"), None),
    ("ia3_plot({}, {})", ["tickets", "1"], ("22023", "ia3_plot_version"), None),
    ("ia3_predict_fields({}, {})", ["mails", "no JSON"], ("22P02", ""), None),
]

count = failed = 0
called = set()


def check(name, ok, note=""):
    global count, failed
    count += 1
    failed += not ok
    print(f"{'ok' if ok else 'not ok'} {count} - {name}", flush=True)
    if not ok:
        print("# " + str(note).replace("\n", "\n# "), flush=True)


def skip(name, why):
    global count
    count += 1
    print(f"ok {count} - {name} # SKIP {why}", flush=True)


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def literal(value):
    """The SQL literal, with the type that the function has."""
    if isinstance(value, str):
        return quoted(value) + "::text"
    if isinstance(value, list):
        return "ARRAY[" + ", ".join(quoted(v) for v in value) + "]::text[]"
    if isinstance(value, Fields):
        return quoted(drivers.json.dumps(value.values)) + "::jsonb"
    if isinstance(value, float):
        return f"{value!r}::float8"
    return str(value)


def with_literals(sql, args):
    parts = sql.split("{}")
    return parts[0] + "".join(literal(a) + part for a, part in zip(args, parts[1:]))


def expect(driver, sql, args, expected):
    """Runs a statement, checks its rows (None: any), and returns them."""
    called.update(re.findall(r"\bia3_\w+", sql))
    name = f"{driver.name}: {sql}"
    try:
        rows = driver.run(sql, args)
    except (ServerError, ClientError, AssertionError) as error:
        check(name, False, error)
        return None
    check(name, expected is None or rows == expected, f"expected {expected}, got {rows}")
    return rows


def placeholders(function, args, first="SELECT * FROM "):
    return f"{first}{function}({', '.join('{}' for _ in args)})"


def test_calls(driver, sql):
    """Whatever only reads gives what SQL gives."""
    for function, args, same_as in CALLS:
        reference = sql.execute("SELECT * FROM %s(%s)" % (same_as or function, ", ".join(map(literal, args))), None)
        expect(driver, placeholders(function, args), args, reference)
    (backbone,), = sql.execute("SELECT path FROM ia3_stat_engine", None)
    check_backbone = "SELECT * FROM ia3_check_backbone({}) WHERE item <> 'time'"
    for statement, args in [(check_backbone, [backbone]), *STATEMENTS]:
        expect(driver, statement, args, sql.execute(with_literals(statement, args), None))


def test_changes(driver, sql):
    """Training, versions, grants, import and export, with a task of this driver's own."""
    task, copy = "by " + driver.name, "copy by " + driver.name
    names = ("template choices backbone init steps batch_size learning_rate warmup_ratio lm_weight unlikelihood_weight"
             " length_norm_weight dropout seed activate loss_averaging method").split()
    values = [["{text} Topic:"], CHOICES, "default", "none", 20, 4, 0.01, 0.1, 1.0, 1.0, 0.5, 0.1, 7, True, "batch", "ia3"]
    train = "SELECT ia3_train({}, {}, " + ", ".join(f"{name} => {{}}" for name in names) + ")"
    digest = "SELECT encode(digest, 'hex') FROM ia3.adapter WHERE task = {} AND version = 1"
    args = [task, SHOTS] + values
    expect(driver, train, args, [(1,)])
    sql.execute(with_literals(train, ["by SQL"] + args[1:]), None)
    expect(driver, digest, [task], sql.execute("SELECT encode(digest, 'hex') FROM ia3.adapter WHERE task = 'by SQL'", None))
    sql.execute("SELECT ia3_drop('by SQL')", None)
    expect(driver, "SELECT ia3_train({}, {}, steps => {})", [task, SHOTS, 20], [(2,)])
    worded = "SELECT ia3_train({}, {}, steps => {}, seed => {}, verbalizers => {}, descriptions => {}, template => {})"
    worded_values = [20, 7, '{"%s": ["x", "y"]}' % CHOICES[0], '{"%s": "z"}' % CHOICES[1], ["{text} {descriptions}"]]
    weighted = "SELECT ia3_train({}, {}, steps => {}, seed => {}, balanced => {}, class_weights => {}, weight_column => {})"
    expect(driver, weighted, [task, "SELECT body AS text, label, 2 AS trust FROM shots", 20, 7, True, '{"%s": 2}' % CHOICES[0], "trust"], [(3,)])
    described = [PROMPT, ["good", "bad"], '{"good": "a text that praises"}', '{"bad": ["bad", "poor"]}']
    for name in ("ia3_zero_shot", "ia3_predict_zero_shot", "ia3_classify_zero_shot"):
        reference = sql.execute(with_literals(f"SELECT * FROM {name}({{}}, {{}}, {{}}::jsonb, {{}}::jsonb)", described), None)
        expect(driver, placeholders(name, described), described, reference)
    expect(driver, worded, ["worded by " + driver.name, SHOTS] + worded_values, [(1,)])
    train = "CALL ia3_train_task({}, {}, " + ", ".join(f"{name} => {{}}" for name in names) + ")"
    expect(driver, train, ["called " + driver.name] + args[1:], [(1,)])
    expect(driver, digest, ["called " + driver.name], sql.execute(with_literals(digest, [task]), None))
    cross = ("SELECT count(*) FROM ia3_cross_predict({}, folds => {}, repeats => {}, group_column => {}, id_column => {}, "
             "steps => {}, seed => {})")
    labelled = "SELECT body AS text, label, body FROM shots"
    expect(driver, cross, [labelled, 2, 1, "body", "body", 2, 1], sql.execute("SELECT count(*) FROM shots", None))
    validate = ("SELECT count(*), max(n) FROM ia3_cross_validate({}, folds => {}, repeats => {}, group_column => {}, id_column => {}, "
                "steps => {}, seed => {})")
    expect(driver, validate, [labelled, 2, 1, "body", "body", 2, 1], sql.execute("SELECT 2, count(*) FROM shots", None))
    curve = "SELECT max(size), max(n) FROM ia3_learning_curve({}, sizes => {}, folds => {}, repeats => {}, group_column => {}, steps => {}, seed => {})"
    expect(driver, curve, [labelled, [1, 2], 2, 1, "body", 2, 1], sql.execute("SELECT 2, count(*) FROM shots", None))
    expect(driver, "SELECT ia3_plot_learning_curve({}) LIKE '<svg%'", ['[{"size": 10, "accuracy": 0.5}]'], [(True,)])
    calibrated = "calibrated by " + driver.name
    rows = "SELECT body AS text, label FROM shots UNION ALL SELECT body || '!', label FROM shots UNION ALL SELECT body || '?', label FROM shots"
    expect(driver, "SELECT ia3_train({}, {}, steps => {}, seed => {}, calibrate => {})", [calibrated, rows, 2, 1, True], [(1,)])
    expect(driver, "CALL ia3_train_task({}, {}, steps => {}, seed => {}, calibrate => {})", [calibrated, rows, 2, 1, False], [(2,)])
    expect(driver, "SELECT ia3_calibrate({}, {})", [calibrated, rows], [(3,)])
    early = "SELECT ia3_train({}, {}, steps => {}, seed => {}, early_stopping => {}, activate => {})"
    expect(driver, early, [calibrated, rows, 8, 1, "folds", False], [(4,)])
    expect(driver, "CALL ia3_train_task({}, {}, steps => {}, seed => {}, early_stopping => {}, activate => {})", [calibrated, rows, 34, 1, "loss", False], [(5,)])
    expect(driver, "SELECT metrics -> 'early_stopping' ->> 'rule' FROM ia3.adapters WHERE task = {} AND version > {} ORDER BY version", [calibrated, 3], [("folds",), ("loss",)])
    expect(driver, "SELECT count(DISTINCT temperature), count(temperature) FROM ia3.adapters WHERE task = {}", [calibrated], [(1, 2)])
    expect(driver, "SELECT ia3_plot_calibration({}) LIKE '<svg%'", [calibrated], [(True,)])
    expect(driver, "SELECT ia3_plot_calibration({}, {}) LIKE '<svg%'", [calibrated, rows], [(True,)])
    expect(driver, "SELECT ia3_drop({}) IS NOT NULL", [calibrated], [(True,)])
    sets, eight = "sets by " + driver.name, "SELECT body AS text, label FROM shots UNION ALL SELECT subject, label FROM shots"
    expect(driver, "SELECT ia3_train({}, {}, steps => {}, calibrate => {})", [sets, eight, 2, True], [(1,)])
    expect(driver, "SELECT max(answered) FROM ia3_coverage_curve({})", [sets], [(8,)])
    for call, args in [("ia3_predict_set({}, {})", [TEXT]), ("ia3_predict_set({}, {}, {}, {})", [TEXT, CHOICES, 0.5]),
                       ("ia3_predict_set({}, {}, coverage => {})", [TEXT, 0.5]), ("ia3_predict_set_fields({}, {})", ['{"text": "x"}']),
                       ("ia3_predict_set_fields({}, {}, choices => {}, coverage => {})", ['{"text": "x"}', CHOICES, 1.0]),
                       ("ia3_predict_version({}, {}, {})", [1, TEXT]), ("ia3_predict_version({}, {}, {}, {})", [1, TEXT, CHOICES]),
                       ("ia3_predict_version({}, {}, {}::jsonb)", [1, '{"text": "x"}']), ("ia3_predict_version({}, {}, {}::jsonb, {})", [1, '{"text": "x"}', CHOICES])]:
        expect(driver, "SELECT " + call, [sets] + args, sql.execute(with_literals("SELECT " + call, [sets] + args), None))
    topics = "topics by " + driver.name
    expect(driver, "SELECT ia3_train({}, {}, steps => {})", [topics, "SELECT body AS text, ARRAY[label, 'any'] AS label FROM shots UNION ALL SELECT subject, '{}' FROM shots", 2], [(1,)])
    for call, args in [("ia3_predict_labels({}, {})", [TEXT]), ("ia3_predict_labels({}, {}, {}, {})", [TEXT, CHOICES, 0.0]),
                       ("ia3_predict_labels({}, {}, min_probability => {})", [TEXT, 0.2]), ("ia3_predict_labels_fields({}, {})", ['{"text": "x"}']),
                       ("ia3_predict_labels_fields({}, {}, choices => {}, min_probability => {})", ['{"text": "x"}', CHOICES, 0.0])]:
        expect(driver, "SELECT " + call, [topics] + args, sql.execute(with_literals("SELECT " + call, [topics] + args), None))
    expect(driver, "SELECT count(*) FROM ia3_check_indexes({})", [10], [(0,)])
    pretrain = "CALL ia3_pretrain({}, {}, templates => {}, steps => {}, batch_size => {}, checkpoint_every => {}, seed => {})"
    expect(driver, pretrain, ["base " + driver.name, "SELECT 'a' AS task, body AS text, label FROM shots", '{"a": "{text}?"}',
                              20, 4, 10, 1], [])
    expect(driver, "SELECT version FROM ia3.adapters WHERE task = {}", ["base " + driver.name], [(1,)])

    sql.execute("CREATE TABLE to_label AS SELECT body, NULL::text AS topic, NULL::int AS version, NULL::float8 AS probability FROM shots", None)
    label = ("CALL ia3_label({}, {}, {}, {}, {}, {}, condition => {}, commit_rows => {}, relabel => {})")
    expect(driver, label, ["to_label", task, "body", "topic", "version", "probability", "length(body) > 0", 0, True],
           sql.execute("SELECT count(*) FROM shots", None))
    sql.execute("ALTER TABLE to_label ADD id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY", None)
    watch = "SELECT ia3_watch({}, {}, {}, {}, {}, {}, condition => {}, mode => {}) IS NOT NULL"
    expect(driver, watch, ["to_label", task, "body", "topic", "version", "probability", "length(body) > 0", "direct"], [(True,)])
    expect(driver, "INSERT INTO to_label (body) VALUES ({}) RETURNING topic", [TEXT], [(None,)])
    expect(driver, "SELECT count(topic) = count(*) FROM to_label", [], [(True,)])
    expect(driver, "SELECT ia3_watch_retry({}, {})", ["to_label", "topic"], [(0,)])
    expect(driver, "SELECT ia3_unwatch({}, {}) IS NOT NULL", ["to_label", "topic"], [(True,)])
    sql.execute("DROP TABLE to_label", None)
    expect(driver, "SELECT ia3_activate({}, {}) IS NOT NULL", [task, 1], [(True,)])
    expect(driver, "SELECT ia3_drop({}, {}) IS NOT NULL", [task, 2], [(True,)])
    expect(driver, "SELECT ia3_grant({}, {}) IS NOT NULL", [task, "public"], [(True,)])
    expect(driver, "SELECT ia3_revoke({}, {}) IS NOT NULL", [task, "public"], [(True,)])
    expect(driver, "SELECT ia3_reassign({}, {})", ["pg_monitor", "postgres"], [(0,)])
    (adapter,), = expect(driver, "SELECT ia3_export({})", [task], None)
    (config,), = expect(driver, "SELECT ia3_export_config({})", [task], None)
    expect(driver, "SELECT ia3_import({}, {})", [copy, adapter], [(1,)])
    for version, wrapper in enumerate(driver.json_wrappers, 2):
        args = driver.with_wrapper(wrapper, [copy, adapter, Fields(**drivers.json.loads(config))])
        check(f"{driver.name}: ia3_import with {wrapper.__name__}",
              driver.execute("SELECT ia3_import({}, {}, {})", args) == [(version,)])
    expect(driver, "SELECT ia3_export({})", [copy], [(adapter,)])
    moved = "moved by " + driver.name
    expect(driver, "SELECT ia3_copy({}, {}) IS NOT NULL", [copy, moved + " first"], [(True,)])
    expect(driver, "SELECT ia3_rename({}, {}) IS NOT NULL", [moved + " first", moved], [(True,)])
    averaged = "averaged by " + driver.name
    expect(driver, "SELECT ia3_average({}, {})", [averaged, [copy, moved]], [(1,)])
    expect(driver, "SELECT ia3_average({}, {}, {})", [averaged, [copy, moved], [0.5, 2.5]], [(2,)])
    (export,), = expect(driver, "SELECT ia3_export_task({})::text", [moved], None)
    expect(driver, "SELECT ia3_drop({}) IS NOT NULL", [moved], [(True,)])
    expect(driver, "SELECT ia3_import_task({})", [export], [(moved,)])
    expect(driver, "SELECT ia3_import_task({}, {})", [export, moved + " again"], [(moved + " again",)])
    for wrapper in driver.json_wrappers:
        name = f"{moved} with {wrapper.__name__}"
        args = driver.with_wrapper(wrapper, [Fields(**drivers.json.loads(export)), name])
        check(f"{driver.name}: ia3_import_task with {wrapper.__name__}",
              driver.execute("SELECT ia3_import_task({}, {})", args) == [(name,)])
        expect(driver, "SELECT ia3_drop({}) IS NOT NULL", [name], [(True,)])
    for name in (moved, moved + " again"):
        expect(driver, "SELECT ia3_drop({}) IS NOT NULL", [name], [(True,)])
    (data,), = sql.execute("SHOW data_directory", None)
    expect(driver, "SELECT ia3_merge({}, {}) IS NOT NULL", [task, f"{data}/ia3 by {driver.name} {os.getpid()}"], [(True,)])
    for name in (task, copy, "called " + driver.name, "base " + driver.name):
        expect(driver, "SELECT ia3_drop({}) IS NOT NULL", [name], [(True,)])


def test_mistakes(driver):
    """A call that means another function is an error whose hint names that function."""
    for call, args, (sqlstate, function), only in MISTAKES:
        if only and driver.name not in only:
            continue
        try:
            outcome = driver.run("SELECT * FROM " + call, args)
            check(f"{driver.name}: {call} fails", False, outcome)
        except ServerError as error:
            check(f"{driver.name}: {call} fails with {sqlstate} and names {function}",
                  error.sqlstate == sqlstate and function in error.hint, f"{error}\n{error.hint}")


def test_client_errors(driver):
    """asyncpg insists on the types of the server; what it cannot send must not be sent as something else."""
    for call, args in (("ia3_predict({}, {})", [PROMPT, ["good", "bad"]]), ("ia3_generate({}, {})", [PROMPT, 8]),
                       ("ia3_plot({}, {})", ["tickets", 1])):
        try:
            check(f"{driver.name}: {call} fails", False, driver.run("SELECT * FROM " + call, args))
        except ClientError as error:
            check(f"{driver.name}: {call} fails", "expected str" in str(error), error)


def test_complete(sql):
    """Every function has been called through the drivers; those in the schema ia3 are for policies and triggers."""
    functions = sql.execute(
        "SELECT DISTINCT proname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid WHERE d.classid = 'pg_proc'::regclass"
        " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ia3') AND pronamespace <> 'ia3'::regnamespace"
        " ORDER BY 1", None)
    for (name,) in functions:
        check(f"{name} has been called", name in called)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", required=True, help="directory of the server's socket")
    options = parser.parse_args()
    maintenance = drivers.Psycopg2(options.socket, "postgres")
    maintenance.execute(f"DROP DATABASE IF EXISTS {DATABASE}", None)
    maintenance.execute(f"CREATE DATABASE {DATABASE}", None)
    sql = drivers.Psycopg2(options.socket, DATABASE)
    sql.execute("SET client_min_messages = warning", None)
    for statement in examples.setup_statements():
        sql.execute(statement, None)
    for example in examples.all_of_them():
        name, reason, ok, note = example.run(options.socket, DATABASE)
        skip(name, reason) if reason else check(name, ok, note)
    for kind in drivers.ALL:
        driver = kind(options.socket, DATABASE)
        test_calls(driver, sql)
        test_changes(driver, sql)
        test_mistakes(driver)
        if driver.name == "asyncpg":
            test_client_errors(driver)
    test_complete(sql)
    print(f"1..{count}")
    raise SystemExit(1 if failed else 0)


main()
