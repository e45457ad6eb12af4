-- ia3_predict_version: predictions that never change, for indexes and other stored expressions.
SET client_min_messages = warning;
CREATE ROLE regress_ia3_alice;
CREATE ROLE regress_ia3_bob;
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, ''));
END $$;
GRANT EXECUTE ON FUNCTION ia3_train TO regress_ia3_alice;

CREATE TABLE pv_shots (id int, text text, label text);
INSERT INTO pv_shots VALUES (1, 'the invoice is wrong', 'billing'), (2, 'cannot log in', 'access'),
    (3, 'charged twice', 'billing'), (4, 'forgot my password', 'access');
SELECT ia3_train('pv', 'SELECT text, label FROM pv_shots', steps => 30, seed => 1);
SELECT ia3_train('pv', 'SELECT text, label FROM pv_shots', steps => 1, seed => 2, template => ARRAY['Topic of: {text}'],
    choices => ARRAY['access', 'billing', 'other']);
SELECT provolatile, proisstrict, proparallel, count(*) FROM pg_proc WHERE proname = 'ia3_predict_version' GROUP BY 1, 2, 3;

--
-- It answers as the version does by reference
--
SELECT id, ia3_predict_version('pv', 1, text) AS first, ia3_predict_version('pv', 1, text) = ia3_predict('pv@1', text) AS same,
       ia3_predict_version('pv', 2, text) = ia3_predict('pv@2', text) AS second,
       ia3_predict_version('pv', 1, text, ARRAY['password', 'invoice']) = ia3_predict('pv@1', text, ARRAY['password', 'invoice']) AS choices,
       ia3_predict_version('pv', 1, jsonb_build_object('text', text)) = ia3_predict('pv@1', text) AS fields,
       ia3_predict_version('pv', 2, jsonb_build_object('text', text), ARRAY['a', 'b']) = ia3_predict('pv@2', text, ARRAY['a', 'b']) AS both
  FROM pv_shots ORDER BY id;
-- NULL for any argument is NULL
SELECT ia3_predict_version(NULL, 1, 'x') IS NULL AS task, ia3_predict_version('pv', NULL, 'x') IS NULL AS version,
       ia3_predict_version('pv', 1, NULL::text) IS NULL AS input, ia3_predict_version('pv', 1, NULL::jsonb) IS NULL AS fields,
       ia3_predict_version('pv', 1, 'x', NULL) IS NULL AS choices;

--
-- What the owner changes in ia3.task does not matter, nor does which version is active
--
CREATE TABLE pv_before AS SELECT id, ia3_predict_version('pv', 1, text) AS one, ia3_predict_version('pv', 2, text) AS two FROM pv_shots;
SELECT ia3_activate('pv', 1);
UPDATE ia3.task SET template = ARRAY['{other}'], choices = ARRAY['yes', 'no'], min_probability = 1, backbone = 'elsewhere',
    verbalizers = '{"yes": "access", "no": "billing"}', descriptions = '{"yes": "a"}' WHERE task = 'pv';
SELECT attempt($$SELECT ia3_predict('pv', 'cannot log in')$$);
SELECT bool_and(one = ia3_predict_version('pv', 1, text)) AS one, bool_and(two = ia3_predict_version('pv', 2, text)) AS two
  FROM pv_shots JOIN pv_before USING (id);
UPDATE ia3.task SET min_probability = NULL WHERE task = 'pv';
SELECT ia3_activate('pv', 2);

--
-- Nor do settings
--
CREATE TABLE pv_long AS SELECT id, text || repeat(' and the weather was fine all day', 6) || ', but ' || (SELECT s.text FROM pv_shots s WHERE s.id = (p.id % 4) + 1) AS text
  FROM pv_shots p;
CREATE TABLE pv_answers AS SELECT id, ia3_predict_version('pv', 1, text) AS fixed, ia3_predict('pv@1', text) AS free FROM pv_long;
SET ia3.max_input_tokens = 16;
SELECT bool_and(fixed = ia3_predict_version('pv', 1, text)) AS fixed, bool_and(free = ia3_predict('pv@1', text)) AS free,
       bool_and(fixed = free) AS alike FROM pv_long JOIN pv_answers USING (id);
-- one by one, too
SET ia3.enable_batching = off;
SELECT bool_and(fixed = ia3_predict_version('pv', 1, text)) AS fixed, bool_and(free = ia3_predict('pv@1', text)) AS free
  FROM pv_long JOIN pv_answers USING (id);
RESET ia3.enable_batching;
-- a version that is made now reads inputs of 16 tokens for ever
SELECT ia3_train('pv', 'SELECT text, label FROM pv_shots', steps => 30, seed => 1, activate => false);
CREATE TABLE pv_short AS SELECT id, ia3_predict('pv@3', text) AS short FROM pv_long;
RESET ia3.max_input_tokens;
SELECT bool_and(short = ia3_predict_version('pv', 3, text)) AS fixed, bool_and(short = ia3_predict('pv@3', text)) AS free FROM pv_long JOIN pv_short USING (id);
-- averages and imports record the limit as well
SELECT ia3_average('pv', ARRAY['pv@3', 'pv@1']);
SET ia3.max_input_tokens = 32;
SELECT ia3_import('pv', ia3_export('pv@1'));
RESET ia3.max_input_tokens;
SELECT version, recipe -> 'max_input_tokens' AS tokens, recipe ->> 'template' AS template FROM ia3.adapter WHERE task = 'pv' ORDER BY 1;
SELECT attempt($$SELECT ia3_predict_version('pv', 4, 'pay')$$), attempt($$SELECT ia3_predict_version('pv', 5, 'pay')$$);
-- a superuser's limit cannot give another answer, only an error
SET ia3.max_input_tokens_limit = 16;
SELECT attempt($$SELECT ia3_predict_version('pv', 1, 'pay')$$), attempt($$SELECT ia3_predict_version('pv', 3, 'pay')$$);
SELECT attempt($$SELECT ia3_predict_version('pv', 1, text) FROM pv_shots$$);
RESET ia3.max_input_tokens_limit;

--
-- Versions that do not say everything
--
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT 'pv', 90 + n, vectors, CASE n WHEN 5 THEN sha256('other') ELSE backbone_digest END,
           (recipe || CASE n WHEN 2 THEN '{"max_input_tokens": "many", "choices": ["billing", "access"]}'
                             WHEN 3 THEN '{"max_input_tokens": 1e100}' WHEN 4 THEN '{"template": []}' ELSE '{}' END::jsonb)
           - CASE n WHEN 0 THEN 'template' WHEN 1 THEN 'choices' WHEN 6 THEN 'backbone' ELSE '' END, created_by
      FROM ia3.adapter, generate_series(0, 6) n WHERE task = 'pv' AND version = 3;
SELECT n, attempt(format($$SELECT ia3_predict_version('pv', %s, 'pay')$$, 90 + n)) FROM generate_series(0, 6) n;
-- the default of the setting stands for what is not recorded
SELECT bool_and(ia3_predict_version('pv', 92, text) = fixed) AS unrecorded, bool_and(ia3_predict_version('pv', 93, text) = fixed) AS unusable,
       bool_and(ia3_predict_version('pv', 3, text) = fixed) AS recorded FROM pv_long JOIN pv_answers USING (id);
SELECT ia3_predict_version('pv', 91, 'pay', ARRAY['this']);

--
-- Bad arguments
--
SELECT attempt(call) FROM (VALUES (1, $$SELECT ia3_predict_version('nobody', 1, 'x')$$), (2, $$SELECT ia3_predict_version('', 1, 'x')$$),
    (3, $$SELECT ia3_predict_version('pv@1', 1, 'x')$$), (4, $$SELECT ia3_predict_version('pv', 7, 'x')$$), (5, $$SELECT ia3_predict_version('pv', 0, 'x')$$),
    (6, $$SELECT ia3_predict_version('pv', -1, 'x')$$), (7, $$SELECT ia3_predict_version('pv', 1, 'x', '{}')$$),
    (8, $$SELECT ia3_predict_version('pv', 1, 'x', '{a,NULL}')$$), (9, $$SELECT ia3_predict_version('pv', 1, 'x', '{a,a}')$$),
    (10, $$SELECT ia3_predict_version('pv', 1, '[]'::jsonb)$$), (11, $$SELECT ia3_predict_version('pv', 1, '{"body": "x"}'::jsonb)$$),
    (12, $$SELECT ia3_predict_version('pv', 1, '')$$), (13, $$SELECT ia3_predict_version('none', 1, 'x')$$)) v(n, call) ORDER BY n;
-- the same where rows are read ahead, and beside calls that have an answer
SELECT attempt($$SELECT ia3_predict_version('pv', id, text) FROM pv_shots, generate_series(7, 7) g(v)$$),
       attempt($$SELECT ia3_predict_version('pv', v, text) FROM pv_shots, generate_series(1, 7, 3) g(v)$$),
       attempt($$SELECT ia3_predict_version(name, 1, text) FROM pv_shots, unnest('{pv,nobody}'::text[]) u(name)$$),
       attempt($$SELECT ia3_predict(name, text) FROM pv_shots, unnest('{=1@pv,pv@1}'::text[]) u(name)$$);
SELECT ia3_train('pv fields', $$SELECT 'a' AS subject, text AS body, label FROM pv_shots$$, steps => 1, template => ARRAY['{subject}: {body}']);
SELECT attempt($$SELECT ia3_predict_version('pv fields', 1, '{"subject": "x", "body": "y"}')$$), attempt($$SELECT ia3_predict_version('pv fields', 1, 'x')$$);
-- a multi-label version has no best choice
SELECT ia3_train('pv many', $$SELECT text, ARRAY[label, 'any'] AS label FROM pv_shots$$, steps => 1);
SELECT attempt($$SELECT ia3_predict_version('pv many', 1, 'x')$$), attempt($$SELECT ia3_predict_version('pv many', 1, text) FROM pv_shots$$);
-- of values in columns, an IMMUTABLE expression makes the fields
SELECT ia3_predict_version('pv fields', 1, jsonb_object(ARRAY['subject', 'body'], ARRAY[label, text]))
     = ia3_predict('pv fields@1', jsonb_build_object('subject', label, 'body', text)) AS fields FROM pv_shots;
SELECT attempt($$CREATE INDEX ON pv_shots (ia3_predict_version('pv fields', 1, jsonb_build_object('subject', label, 'body', text)))$$),
       attempt($$CREATE INDEX ON pv_shots (ia3_predict_version('pv fields', 1, jsonb_object(ARRAY['subject', 'body'], ARRAY[label, text])))$$);

--
-- Privileges: those who cannot read the task learn no more than that it does not exist, even where row security is off
--
SET ROLE regress_ia3_alice;
SELECT attempt($$SELECT ia3_predict_version('pv', 1, 'pay')$$), attempt($$SELECT ia3_predict_version('pv', 7, 'pay')$$);
SET row_security = off;
SELECT attempt($$SELECT ia3_predict_version('pv', 1, 'pay')$$);
RESET ROLE;
SELECT ia3_grant('pv', 'regress_ia3_alice');
SET ROLE regress_ia3_alice;
-- dumps are restored with these settings
SET search_path = '';
SELECT public.ia3_predict_version('pv', 1, 'cannot log in');
RESET row_security;
SELECT public.ia3_predict_version('pv', 1, 'cannot log in');
RESET search_path;
-- an index is built by the owner of the table, an insertion calls the function as who inserts
CREATE TABLE pg_temp.hers (text text, topic text GENERATED ALWAYS AS (ia3_predict_version('pv', 1, text)) STORED);
INSERT INTO hers VALUES ('cannot log in');
CREATE INDEX ON hers (ia3_predict_version('pv', 1, text));
GRANT ALL ON hers TO regress_ia3_bob;
SELECT attempt($$SET LOCAL ROLE regress_ia3_bob; INSERT INTO pg_temp.hers VALUES ('charged twice')$$);
RESET ROLE;
REINDEX TABLE hers;
SELECT ia3_revoke('pv', 'regress_ia3_alice');
SELECT attempt($$REINDEX TABLE hers$$), attempt($$INSERT INTO hers VALUES ('charged twice')$$);
SELECT * FROM hers;
DROP TABLE hers;

--
-- Plans
--
EXPLAIN (VERBOSE, COSTS OFF) SELECT ia3_predict_version('pv', 1, text) FROM pv_shots;
-- constant calls are answered by the planner
EXPLAIN (VERBOSE, COSTS OFF) SELECT ia3_predict_version('pv', 1, 'cannot log in');
PREPARE asked(text) AS SELECT ia3_predict_version('pv', 1, $1);
SET plan_cache_mode = force_generic_plan;
EXECUTE asked('cannot log in');
EXECUTE asked('charged twice');
RESET plan_cache_mode;
-- parallel workers
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
BEGIN;
CREATE TABLE pv_many AS SELECT n AS id, text FROM pv_shots, generate_series(1, 20) n;
EXPLAIN (COSTS OFF) SELECT id FROM pv_many WHERE ia3_predict_version('pv', 1, text) = 'access';
SELECT count(*) FROM pv_many WHERE ia3_predict_version('pv', 1, text) = 'access';
ROLLBACK;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;

--
-- Indexes, generated columns, constraints
--
CREATE TABLE pv_mails (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL, sent int,
    topic text GENERATED ALWAYS AS (ia3_predict_version('pv', 1, body)) STORED);
INSERT INTO pv_mails (body, sent) SELECT text, id FROM pv_shots;
INSERT INTO pv_mails (body, sent) SELECT 'cannot log in', n FROM generate_series(5, 24) n;
CREATE INDEX pv_mails_expression ON pv_mails (ia3_predict_version('pv', 1, body));
CREATE INDEX pv_mails_partial ON pv_mails (sent) WHERE ia3_predict_version('pv', 1, body) = 'billing';
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM pv_mails WHERE ia3_predict_version('pv', 1, body) = 'billing' ORDER BY sent;
SELECT id, topic FROM pv_mails WHERE ia3_predict_version('pv', 1, body) = 'billing' ORDER BY sent;
EXPLAIN (COSTS OFF) SELECT id FROM pv_mails WHERE ia3_predict_version('pv', 1, body) = 'access';
SELECT count(*) FROM pv_mails WHERE ia3_predict_version('pv', 1, body) = 'access';
RESET enable_seqscan;
RESET enable_bitmapscan;
-- settings and versions that change meanwhile do not change what is stored
SET ia3.max_input_tokens = 16;
SELECT ia3_activate('pv', 3);
INSERT INTO pv_mails (body) SELECT text FROM pv_long ORDER BY id;
UPDATE pv_mails SET body = 'charged twice' WHERE id = 2;
RESET ia3.max_input_tokens;
REINDEX TABLE pv_mails;
SELECT count(*) FROM pv_mails WHERE topic IS DISTINCT FROM ia3_predict_version('pv', 1, body);
SELECT body IN (SELECT text FROM pv_long) AS long, topic, count(*) FROM pv_mails GROUP BY 1, 2 ORDER BY 1, 2;
-- what an expression index costs ANALYZE can be turned off
ALTER INDEX pv_mails_expression ALTER COLUMN 1 SET STATISTICS 0;
ANALYZE pv_mails;
SELECT count(*) FROM pg_stats WHERE tablename = 'pv_mails_expression';
ALTER TABLE pv_mails ADD CHECK (ia3_predict_version('pv', 1, body) IN ('access', 'billing'));
SELECT attempt($$ALTER TABLE pv_mails ADD CHECK (ia3_predict_version('pv', 1, body) = 'access')$$);

--
-- Whether indexes have what the engine answers now
--
SELECT ia3_train('pv checked', 'SELECT text, label FROM pv_shots', steps => 30, seed => 1);
SELECT ia3_train('pv opposite', $$SELECT text, CASE label WHEN 'access' THEN 'billing' ELSE 'access' END AS label FROM pv_shots$$, steps => 30, seed => 1,
    choices => ARRAY['billing', 'access']);
CREATE TABLE pv_checked AS SELECT n AS id, text FROM pv_shots, generate_series(1, 10) n;
CREATE INDEX pv_checked_topic ON pv_checked (id, ia3_predict_version('pv checked', 1, text)) INCLUDE (text);
CREATE INDEX pv_checked_access ON pv_checked (id DESC) WHERE ia3_predict_version('pv checked', 1, text) = 'access';
CREATE INDEX pv_checked_hash ON pv_checked USING hash (ia3_predict_version('pv checked', 1, text)); -- a hash index does not have the values
UPDATE pv_checked SET text = text || '.' WHERE id = 3;
DELETE FROM pv_checked WHERE id = 4;
SELECT * FROM ia3_check_indexes() WHERE index::text LIKE 'pv_checked%' ORDER BY index::text;
SELECT * FROM ia3_check_indexes(sample_rows => 7) WHERE index::text LIKE 'pv_checked%' ORDER BY index::text;
SELECT index, checked > 2, differing FROM ia3_check_indexes(NULL) WHERE index::text LIKE 'pv_mails%' ORDER BY index::text;
SELECT attempt('SELECT ia3_check_indexes(0)'), attempt('SELECT ia3_check_indexes(-1)');
-- vectors that have learned the opposite stand for another engine
ALTER TABLE ia3.adapter DISABLE TRIGGER USER;
UPDATE ia3.adapter SET vectors = (SELECT vectors FROM ia3.adapter WHERE task = 'pv opposite') WHERE task = 'pv checked';
ALTER TABLE ia3.adapter ENABLE TRIGGER USER;
ALTER TABLE ia3.adapter ENABLE ALWAYS TRIGGER adapter_move_query;
SELECT index, checked, differing > 9 AS differ FROM ia3_check_indexes() WHERE index::text LIKE 'pv_checked%' ORDER BY index::text;
SELECT index, checked, differing BETWEEN 0 AND 5 AS differ FROM ia3_check_indexes(5) WHERE index::text LIKE 'pv_checked%' ORDER BY index::text;
REINDEX INDEX pv_checked_topic;
SELECT index, checked, differing > 9 AS differ, differing = 0 AS none FROM ia3_check_indexes() WHERE index::text LIKE 'pv_checked%' ORDER BY index::text;
-- a caller sees the indexes of roles whose privileges it has; expressions are evaluated as the owner of the table
SELECT ia3_grant('pv', 'regress_ia3_alice');
GRANT CREATE ON SCHEMA public TO regress_ia3_alice;
SET ROLE regress_ia3_alice;
SELECT count(*) FROM ia3_check_indexes();
CREATE FUNCTION pv_who(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'called as %', current_user; RETURN $1; END$$;
CREATE TABLE pv_hers AS SELECT 'cannot log in' AS text;
CREATE INDEX pv_hers_topic ON pv_hers (ia3_predict_version('pv', 1, pv_who(text)));
SELECT * FROM ia3_check_indexes();
RESET ROLE;
SELECT * FROM ia3_check_indexes() WHERE index = 'pv_hers_topic'::regclass;
DROP OWNED BY regress_ia3_alice;
SELECT ia3_revoke('pv', 'regress_ia3_alice');
GRANT EXECUTE ON FUNCTION ia3_train TO regress_ia3_alice;
DROP TABLE pv_checked;
SELECT ia3_drop('pv checked'), ia3_drop('pv opposite');

--
-- What uses a version keeps it, and its task, from being dropped or renamed
--
-- PostgreSQL 13 has no statistics on expressions, and up to 14 a generated column is described otherwise
DO $$BEGIN IF current_setting('server_version_num')::int >= 140000 THEN
    CREATE STATISTICS pv_statistics ON (ia3_predict_version('pv', 1, body)), sent FROM pv_mails; END IF; END$$;
CREATE FUNCTION dependents(command text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(replace(attempt(command), E'statistics object pv_statistics\n', ''), 'default value for column topic', 'column topic')
$$;
CREATE TABLE pv_parted (body text) PARTITION BY LIST (ia3_predict_version('pv', 1, body));
CREATE TABLE pv_default (body text DEFAULT ia3_predict_version('pv', 1, now()::text));
CREATE FUNCTION pv_nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER pv_when BEFORE INSERT ON pv_default FOR EACH ROW WHEN (ia3_predict_version('pv', 1, NEW.body) = 'access')
    EXECUTE FUNCTION pv_nothing();
CREATE POLICY pv_policy ON pv_default USING (ia3_predict_version('pv', 1, body) = 'access');
CREATE POLICY pv_policy_check ON pv_default FOR INSERT WITH CHECK (ia3_predict_version('pv', 1, body) = 'access');
CREATE RULE pv_rule AS ON INSERT TO pv_default WHERE ia3_predict_version('pv', 1, NEW.body) = 'other' DO INSTEAD NOTHING;
CREATE VIEW pv_view AS SELECT (SELECT max(x) FROM (SELECT ia3_predict_version(('p' || 'v')::varchar, '1'::int2 + 0, body) AS x) s) FROM pv_mails;
CREATE VIEW pv_named AS SELECT ia3_predict_version(version => 1, input => body, task => 'pv') FROM pv_mails;
CREATE DOMAIN pv_name AS text CHECK (VALUE <> '');
CREATE VIEW pv_mixed AS SELECT ia3_predict_version('pv'::pv_name, input => body, version => 1) FROM pv_mails;
CREATE DOMAIN pv_domain AS text DEFAULT ia3_predict_version('pv', 1, 'x') CHECK (ia3_predict_version('pv', 1, VALUE, ARRAY['a', 'b']) <> '');
CREATE FUNCTION pv_argument(x text DEFAULT ia3_predict_version('pv', 1, now()::text)) RETURNS text LANGUAGE sql AS 'SELECT x';
SELECT dependents($$SELECT ia3_drop('pv')$$);
SELECT (position('statistics' IN attempt($$SELECT ia3_drop('pv')$$)) > 0) = (current_setting('server_version_num')::int >= 140000) AS statistics;
-- what does not count: another version, another task, arguments that are not constant, bodies of functions
CREATE VIEW pv_unseen AS SELECT ia3_predict_version('pv', version, body) AS a, ia3_predict_version(task, 1, body) AS b, ia3_predict_version('pv fields', 3, body) AS c,
    ia3_predict_version('pv', 1 / 0, body) AS d, ia3_predict_version(lower('PVX'), 2, body) AS e,
    ia3_predict_version(repeat('pv', 2000000000), 1, body) AS f FROM pv_mails, ia3.adapter;
CREATE FUNCTION pv_body(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT ia3_predict_version('pv', 3, $1)$$;
CREATE INDEX pv_body ON pv_mails (pv_body(body));
SELECT ia3_activate('pv', 2);
SELECT attempt($$SELECT ia3_drop('pv', 5)$$), attempt($$SELECT ia3_drop('pv', 3)$$), attempt($$SELECT ia3_drop('pv', 7)$$), attempt($$SELECT ia3_drop('pv', 0)$$);
SELECT split_part(attempt($$SELECT ia3_drop('pv', 1)$$), E'\n', 1) AS drop_version, split_part(attempt($$SELECT ia3_rename('pv', 'pv new')$$), E'\n', 1) AS rename;
SELECT attempt($$SELECT ia3_rename('pv fields', 'pv new')$$), attempt($$SELECT ia3_drop('pv fields')$$);
-- functions of others are not called here, and objects of roles that cannot read the task do not count
GRANT CREATE ON SCHEMA public TO regress_ia3_bob;
SET ROLE regress_ia3_bob;
CREATE FUNCTION pv_evil() RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'called by %', current_user; END$$;
CREATE VIEW pv_bobs AS SELECT ia3_predict_version('pv', 4, random()::text) AS a, ia3_predict_version(pv_evil(), 4, random()::text) AS b;
RESET ROLE;
BEGIN;
SELECT attempt($$SELECT ia3_drop('pv', 4)$$);
ROLLBACK;
SELECT ia3_grant('pv', 'regress_ia3_bob');
SELECT attempt($$SELECT ia3_drop('pv', 4)$$);
SELECT ia3_revoke('pv', 'regress_ia3_bob');
DROP OWNED BY regress_ia3_bob;
DROP TABLE pv_parted, pv_default;
DROP DOMAIN pv_domain;
DROP FUNCTION pv_argument, pv_nothing;
-- the dependents that are left, one by one
SELECT dependents($$SELECT ia3_rename('pv', 'pv new')$$);
DROP VIEW pv_view, pv_unseen, pv_named, pv_mixed;
DROP DOMAIN pv_name;
DROP TABLE pv_mails, pv_before, pv_long, pv_answers, pv_short, pv_shots;

--
-- A number is not given twice
--
SELECT ia3_copy('pv', 'pv copy');
CREATE TABLE pv_export AS SELECT ia3_export_task('pv') AS export;
SELECT ia3_drop('pv'), ia3_drop('pv fields');
SELECT version FROM ia3.given_version WHERE task = 'pv' ORDER BY 1;
-- a number that would leave none for the next versions
SELECT attempt(format('SELECT ia3_import_task(%L)', jsonb_set(export, '{versions,0,version}', '2147483646'))) FROM pv_export;
-- a new task of the name
SELECT ia3_train('pv', $$VALUES ('a', 'b'), ('c', 'd')$$, steps => 1);
SELECT next_version FROM ia3.task WHERE task = 'pv';
SELECT attempt($$SELECT ia3_predict_version('pv', 1, 'x')$$);
SELECT ia3_drop('pv');
-- the same versions may come back
SET client_min_messages = notice;
SELECT ia3_import_task(export) FROM pv_export;
SELECT array_agg(version ORDER BY version), active_version, next_version FROM ia3.adapter a JOIN ia3.task USING (task) WHERE task = 'pv' GROUP BY 2, 3;
SELECT ia3_predict_version('pv', 1, 'cannot log in');
-- others get higher numbers
SELECT ia3_train('pv other', $$VALUES ('a', 'b'), ('c', 'd')$$, steps => 1);
SELECT ia3_train('pv other', $$VALUES ('a', 'b'), ('c', 'd')$$, steps => 1, init => 'pv other');
CREATE TABLE pv_other AS SELECT ia3_export_task('pv other') AS export;
SELECT ia3_drop('pv');
SELECT ia3_copy('pv other', 'pv');
SELECT version, parent_version, active, query FROM ia3.adapters WHERE task = 'pv' ORDER BY 1;
SELECT next_version FROM ia3.task WHERE task = 'pv';
SELECT ia3_drop('pv');
SELECT ia3_import_task(export, 'pv') FROM pv_other;
SELECT version, parent_version, active FROM ia3.adapters WHERE task = 'pv' ORDER BY 1;
SELECT ia3_drop('pv');
SELECT ia3_rename('pv other', 'pv');
SELECT version, parent_version, active, query FROM ia3.adapters WHERE task = 'pv' ORDER BY 1;
SELECT ia3_train('pv', $$VALUES ('a', 'b'), ('c', 'd')$$, steps => 1);
-- there and back again
SELECT ia3_rename('pv', 'pv away');
SELECT ia3_rename('pv away', 'pv');
SELECT array_agg(version ORDER BY version) FROM ia3.adapter WHERE task = 'pv';
-- nor by those who may write the tables
SELECT attempt($$INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT task, 1, vectors, backbone_digest, recipe, created_by FROM ia3.adapter WHERE task = 'pv' AND version > 97 LIMIT 1$$),
       attempt($$UPDATE ia3.adapter SET version = 1 WHERE task = 'pv' AND version > 97$$),
       attempt($$UPDATE ia3.adapter SET task = 'pv copy', version = 1 WHERE task = 'pv' AND version > 97$$),
       attempt($$DELETE FROM ia3.given_version WHERE task = 'pv' AND version IN (SELECT version FROM ia3.adapter WHERE task = 'pv')$$);
SET client_min_messages = warning;
-- who sees what
SET ROLE regress_ia3_alice;
SELECT count(*) FROM ia3.given_version;
SELECT attempt($$INSERT INTO ia3.given_version VALUES ('pv', 1000, sha256('x'))$$), attempt($$DELETE FROM ia3.given_version$$);
SELECT ia3_train('pv hers', $$VALUES ('a', 'b'), ('c', 'd')$$, steps => 1);
SELECT task, version FROM ia3.given_version;
SELECT ia3_drop('pv hers');
SELECT count(*) FROM ia3.given_version;
RESET ROLE;

SELECT ia3_drop(task) FROM ia3.task WHERE task LIKE 'pv%';
DELETE FROM ia3.given_version WHERE task LIKE 'pv%';
DROP TABLE pv_export, pv_other;
DROP FUNCTION pv_body, dependents, attempt;
REVOKE EXECUTE ON FUNCTION ia3_train FROM regress_ia3_alice;
DROP ROLE regress_ia3_alice;
DROP ROLE regress_ia3_bob;
