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

DROP TABLE pv_mails, pv_before, pv_long, pv_answers, pv_short, pv_shots;
SELECT ia3_drop('pv'), ia3_drop('pv fields');
DROP FUNCTION attempt;
REVOKE EXECUTE ON FUNCTION ia3_train FROM regress_ia3_alice;
DROP ROLE regress_ia3_alice;
DROP ROLE regress_ia3_bob;
