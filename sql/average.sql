-- ia3_average: the weighted mean of the vectors of versions.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
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
    RETURN concat_ws(' | ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, ''));
END $$;
-- the first n numbers of the tensors in a safetensors file with data in float32
CREATE FUNCTION numbers(file bytea, n int) RETURNS SETOF float8 IMMUTABLE LANGUAGE sql AS $$
    WITH header AS (SELECT 8 + get_byte(file, 0) + 256 * get_byte(file, 1) + 65536 * get_byte(file, 2) AS length),
    bits AS (SELECT i, get_byte(file, length + 4 * i) + 256 * get_byte(file, length + 4 * i + 1)
                + 65536 * get_byte(file, length + 4 * i + 2) + 16777216::bigint * get_byte(file, length + 4 * i + 3) AS b
             FROM header, generate_series(0, n - 1) i)
    SELECT (CASE b >> 31 WHEN 0 THEN 1 ELSE -1 END) * (8388608 + (b & 8388607)) * 2::float8 ^ (((b >> 23) & 255) - 150)
    FROM bits ORDER BY i
$$;
GRANT EXECUTE ON FUNCTION ia3_train, ia3_average TO regress_ia3_alice;

SET ROLE regress_ia3_alice;
SELECT ia3_train('a', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 3 * s, seed => s,
                 template => ARRAY['{text} ({choices})'], choices => ARRAY['billing', 'access', 'other'], truncate => 'end')
FROM generate_series(1, 2) s;
SELECT ia3_train('b', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 2, seed => 3);
SELECT ia3_train('l', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1, method => 'lora');
SELECT ia3_train('f', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1, method => 'bitfit');

-- numbers are averaged; prompt and choices are those of the first version
SELECT ia3_average('a', ARRAY['a@1', 'a@2']);
WITH n AS (SELECT numbers(ia3_export('a@1'), 2000) AS x, numbers(ia3_export('a@2'), 2000) AS y, numbers(ia3_export('a@3'), 2000) AS m)
SELECT count(*), count(*) FILTER (WHERE x <> y) > 500 AS differ, max(abs(m - (x + y) / 2)) < 1e-7 AS mean,
       bool_or(m <> x AND m <> y) AS between FROM n;
SELECT jsonb_pretty(recipe - 'ia3_version') FROM ia3.adapters WHERE task = 'a' AND version = 3;
SELECT version, active, method, parent_version, examples, metrics IS NULL AS untrained, query FROM ia3.adapters WHERE task = 'a' ORDER BY version;
SELECT template, choices, backbone FROM ia3.task WHERE task = 'a';
SELECT ia3_predict('a', 'pay') IN ('billing', 'access', 'other') AS predicts;
-- weights count relative to each other
SELECT ia3_average('a', ARRAY['a@1', 'a@2'], ARRAY[1, 3]);
WITH n AS (SELECT numbers(ia3_export('a@1'), 2000) AS x, numbers(ia3_export('a@2'), 2000) AS y, numbers(ia3_export('a@4'), 2000) AS m)
SELECT max(abs(m - (0.25 * x + 0.75 * y))) < 1e-7 AS mean FROM n;
SELECT recipe -> 'average_of' AS weights FROM ia3.adapters WHERE task = 'a' AND version = 4;
-- what is averaged with nothing keeps its bytes
SELECT ia3_average('c', ARRAY['a@2']), ia3_average('c', ARRAY['a@1', 'a@2', 'b'], ARRAY[0, 1e-300, 0]);
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task = 'c' OR task = 'a' AND version = 2;
-- of other tasks, for a new one, whose settings are those of the first
SELECT ia3_average('d', ARRAY['b', 'a@1']);
SELECT template, choices, active_version FROM ia3.task WHERE task = 'd';
SELECT ia3_average('f', ARRAY['f', 'f@1', 'f']) IS NULL AS twice;
\set VERBOSITY terse
SELECT ia3_average(NULL, ARRAY['a']) IS NULL AND ia3_average('a', NULL) IS NULL AS strict;
SELECT ia3_average('f', ARRAY['f@1']);

--
-- Errors
--
SELECT attempt($$SELECT ia3_average('x', '{}')$$);
SELECT attempt($$SELECT ia3_average('x', ARRAY['a', NULL])$$);
SELECT attempt($$SELECT ia3_average('x', ARRAY[['a'], ['b']])$$);
SELECT attempt($$SELECT ia3_average('x', ARRAY['a', 'nobody'])$$);
SELECT attempt($$SELECT ia3_average('x', ARRAY['a', 'a@77'])$$);
SELECT attempt($$SELECT ia3_average('x', ARRAY['a', 'a@x'])$$);
SELECT attempt($$SELECT ia3_average('x', ARRAY['a@4', 'b', 'a'])$$);
SELECT attempt($$SELECT ia3_average('x@1', ARRAY['a'])$$);
SELECT attempt(format($$SELECT ia3_average('x', ARRAY['a@1', 'b'], %L)$$, weights))
FROM unnest(ARRAY['{1}', '{1,2,3}', '{}', '{1,NULL}', '{{1,2}}', '{1,-1}', '{1,NaN}', '{1,Infinity}', '{0,0}', '{1e308,1e308}']) weights;
SELECT attempt($$SELECT ia3_average('x', ARRAY['l'])$$);
SELECT attempt($$SELECT ia3_average('x', ARRAY['a', 'f'])$$);
BEGIN READ ONLY;
SELECT attempt($$SELECT ia3_average('x', ARRAY['a'])$$);
ROLLBACK;
SELECT count(*) FROM ia3.task WHERE task = 'x';
RESET ROLE;
-- versions of another backbone, and bytes that are not what an engine stores
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT task, 90, vectors, sha256('another'), recipe, created_by FROM ia3.adapter WHERE task = 'a' AND version = 1;
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT task, 90 + n, bytes, backbone_digest, recipe, created_by FROM ia3.adapter,
        LATERAL (VALUES (1, substr(vectors, 1, length(vectors) - 4)), (2, substr(vectors, 1, length(vectors) - 1)), (3, ''::bytea),
                        (4, set_byte(vectors, 6, 1)), (5, set_byte(vectors, 20, 65))) v (n, bytes)
    WHERE task = 'a' AND version = 1;
SET ROLE regress_ia3_alice;
SELECT attempt(format('SELECT ia3_average(''x'', ARRAY[''a@1'', %L])', 'a@' || n)) FROM generate_series(90, 95) n;
SELECT attempt(format('SELECT ia3_average(''x'', ARRAY[%L])', 'a@' || n)) FROM generate_series(92, 94) n;

-- the caller sees what is averaged, and owns what becomes of it
SET ROLE regress_ia3_bob;
SELECT attempt($$SELECT ia3_average('x', ARRAY['a'])$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION ia3_average TO regress_ia3_bob;
SET ROLE regress_ia3_bob;
SELECT attempt($$SELECT ia3_average('x', ARRAY['a'])$$);
SET ROLE regress_ia3_alice;
SELECT ia3_grant('a', 'regress_ia3_bob');
SET ROLE regress_ia3_bob;
SELECT attempt($$SELECT ia3_average('a', ARRAY['a@1'])$$), attempt($$SELECT ia3_average('b', ARRAY['a@1'])$$);
SELECT ia3_average('bobs', ARRAY['a@1', 'a@2']);
RESET ROLE;
SELECT task, owner, active_version FROM ia3.task ORDER BY task COLLATE "C";
SELECT ia3_drop(task) FROM ia3.task;
REVOKE ALL ON FUNCTION ia3_train, ia3_average FROM regress_ia3_alice, regress_ia3_bob;
DROP ROLE regress_ia3_alice, regress_ia3_bob;
DROP FUNCTION attempt, numbers;
