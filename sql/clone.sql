-- Renaming and copying a task, and taking it to another database.
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
-- all that the tables say about a task but its name
CREATE FUNCTION contents(name text) RETURNS jsonb STABLE LANGUAGE sql AS $$
    SELECT jsonb_build_object('task', (SELECT to_jsonb(t) - 'task' FROM ia3.task t WHERE t.task = name),
        'versions', (SELECT jsonb_agg(to_jsonb(a) - 'task' ORDER BY version) FROM ia3.adapter a WHERE a.task = name),
        'queries', (SELECT jsonb_agg(to_jsonb(q) - 'task' ORDER BY version) FROM ia3.adapter_query q WHERE q.task = name),
        'checkpoint', (SELECT to_jsonb(c) - 'task' FROM ia3.checkpoint c WHERE c.task = name))
$$;
GRANT EXECUTE ON FUNCTION ia3_train, ia3_copy, ia3_import_task(jsonb, text), ia3_import_task(text, text) TO regress_ia3_alice;

SET ROLE regress_ia3_alice;
SELECT ia3_train('a', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1);
SELECT ia3_train('a', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 2, seed => 1,
    template => ARRAY['{text} ({choices})'], choices => ARRAY['billing', 'access', 'other'], init => 'a');
SELECT ia3_train('a', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 2, seed => 1);
SELECT ia3_activate('a', 2), ia3_drop('a', 3), ia3_grant('a', 'regress_ia3_bob');
UPDATE ia3.task SET comment = 'first' WHERE task = 'a';
RESET ROLE;
INSERT INTO ia3.checkpoint (task, step, recipe, backbone_digest, state, losses, seconds, created_by)
    VALUES ('a', 1, '{}', sha256('x'), 'x', '{}', 1, 'regress_ia3_alice');
CREATE TABLE before AS SELECT contents('a') AS c, ia3_predict('a', 'pay') AS active, ia3_predict('a@1', 'pay') AS pinned;
GRANT SELECT ON before TO PUBLIC;

--
-- A new name changes nothing else
--
SET ROLE regress_ia3_alice;
BEGIN;
SELECT ia3_rename('a', 'b');
SELECT ia3_predict('b', 'pay') = active AS same FROM before;
ROLLBACK;
SELECT task FROM ia3.task;
SELECT ia3_rename('a', 'b');
SELECT contents('b') = c AS same, c #>> '{task,next_version}' AS next, jsonb_array_length(c -> 'versions') AS versions,
       jsonb_array_length(c -> 'queries') AS queries, c #>> '{checkpoint,step}' AS step, c #> '{task,readers}' AS readers FROM before;
SELECT ia3_predict('b', 'pay') = active AS active, ia3_predict('b@1', 'pay') = pinned AS pinned FROM before;
SELECT attempt($$SELECT ia3_predict('a', 'pay')$$);
SELECT count(*) FROM ia3.adapters WHERE task <> 'b';
-- the old name is free
SELECT ia3_train('a', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1);
SELECT attempt($$SELECT ia3_rename('a', 'b')$$), attempt($$SELECT ia3_rename('a', 'a')$$), attempt($$SELECT ia3_rename('nobody', 'c')$$),
       attempt($$SELECT ia3_rename('a@1', 'c')$$), attempt($$SELECT ia3_rename('a', 'c@1')$$), attempt($$SELECT ia3_rename('a', '')$$);
SELECT ia3_rename('a', 'c');
SELECT ia3_rename(NULL, 'd') IS NULL AS strict;
BEGIN READ ONLY;
SELECT attempt($$SELECT ia3_rename('b', 'd')$$), attempt($$SELECT ia3_copy('b', 'd')$$), attempt($$SELECT ia3_import_task(ia3_export_task('b'), 'd')$$);
ROLLBACK;
-- versions are as immutable as before, for superusers as well
RESET ROLE;
SELECT attempt($$UPDATE ia3.adapter SET task = 'c', version = 7 WHERE task = 'b'$$), attempt($$UPDATE ia3.adapter SET vectors = vectors$$),
       attempt($$UPDATE ia3.adapter SET task = 'c', vectors = vectors || 'x'$$), attempt($$UPDATE ia3.adapter SET task = 'c', metrics = NULL$$);

--
-- A copy belongs to its maker and begins without readers
--
SET ROLE regress_ia3_alice;
SELECT ia3_copy('b', 'copy');
SELECT (contents('copy') -> 'task') - '{readers,created_at}'::text[] = (c -> 'task') - '{readers,created_at}'::text[] AS task,
       contents('copy') -> 'versions' = c -> 'versions' AS versions, contents('copy') -> 'queries' = c -> 'queries' AS queries,
       contents('copy') #> '{task,readers}' AS readers, contents('copy') ->> 'checkpoint' AS checkpoint FROM before;
SELECT ia3_predict('copy', 'pay') = active AS active, ia3_predict('copy@1', 'pay') = pinned AS pinned FROM before;
SELECT ia3_drop('copy', 1), ia3_train('copy', $$VALUES ('x', 'y'), ('z', 'w')$$, steps => 1);
SELECT contents('b') = c AS untouched FROM before;
SELECT attempt($$SELECT ia3_copy('b', 'c')$$), attempt($$SELECT ia3_copy('b', 'b')$$), attempt($$SELECT ia3_copy('nobody', 'd')$$);

--
-- Export and import
--
SELECT jsonb_object_keys(ia3_export_task('b')) AS member ORDER BY 1;
SELECT jsonb_object_keys(ia3_export_task('b') #> '{versions,0}') AS member ORDER BY 1;
SELECT ia3_import_task(ia3_export_task('b'), 'imported'), ia3_import_task(NULL) IS NULL AS nothing;
SELECT (contents('imported') -> 'task') - '{readers,created_at}'::text[] = (c -> 'task') - '{readers,created_at}'::text[] AS task,
       contents('imported') -> 'versions' = c -> 'versions' AS versions, contents('imported') -> 'queries' = c -> 'queries' AS queries,
       contents('imported') #> '{task,readers}' AS readers, contents('imported') ->> 'checkpoint' AS checkpoint FROM before;
SELECT ia3_predict('imported', 'pay') = active AS active, ia3_predict('imported@1', 'pay') = pinned AS pinned FROM before;
SELECT ia3_export_task('imported') - 'task' = ia3_export_task('b') - 'task' AS same_export;
-- it is a new task, never a change of one
SELECT attempt($$SELECT ia3_import_task(ia3_export_task('b'))$$);
SELECT ia3_rename('b', 'moved');
SELECT ia3_import_task(ia3_export_task('moved') || '{"task": "b", "unknown": 1}');
RESET ROLE;
SELECT ia3_import_task(ia3_export_task('b')::json, 'json'), ia3_import_task(ia3_export_task('b')::text, 'text');
SELECT DISTINCT (ia3_export_task(name) - 'task' #- '{versions,0,created_by}' #- '{versions,1,created_by}')::text
    = (ia3_export_task('b') - 'task' #- '{versions,0,created_by}' #- '{versions,1,created_by}')::text AS same
  FROM unnest('{json,text}'::text[]) name;
SET ROLE regress_ia3_alice;
-- what is no export, or was damaged, is not imported
CREATE TEMP TABLE broken (id serial, export jsonb);
INSERT INTO broken (export) VALUES ('[]'), ('{}'), ('{"format": "1"}'), ('{"format": 2}'), ('{"format": 1}'), ('{"format": 1, "backbone": "default"}'),
    ('{"format": 1, "backbone": "default", "template": []}'), ('{"format": 1, "backbone": "default", "template": [null]}'),
    ('{"format": 1, "backbone": "default", "template": ["{"]}'), ('{"format": 1, "backbone": "default", "template": ["{text}"]}'),
    ('{"format": 1, "backbone": "default", "template": ["{text}"], "versions": []}'),
    ('{"format": 1, "backbone": "default", "template": ["{text}"], "versions": [1], "task": "x"}'),
    ('{"format": 1, "backbone": "default", "template": ["{text}"], "versions": [{}], "task": "x"}'),
    ('{"format": 1, "backbone": "default", "template": ["{text}"], "versions": [{"version": 0}], "task": "x"}'),
    ('{"format": 1, "backbone": "default", "template": ["{text}"], "versions": [{"version": 1}], "task": "x"}');
INSERT INTO broken (export) SELECT jsonb_set(ia3_export_task('moved') || '{"task": "x"}', path::text[], value::jsonb) FROM (VALUES
    ('{versions,0,vectors}', '"AAAA"'), ('{versions,0,vectors}', '"%"'), ('{versions,0,vectors}', '""'), ('{versions,0,digest}', '"00"'),
    ('{versions,0,recipe}', '[]'), ('{versions,0,backbone_digest}', '"00"'), ('{versions,0,version}', '2'), ('{versions,0,version}', '"one"'),
    ('{task}', '"a@b"'), ('{task}', '"none"'), ('{versions,0,metrics}', '[1]'), ('{versions,0,metrics}', '"x"')) v (path, value);
INSERT INTO broken (export) SELECT jsonb_set(ia3_export_task('moved') || '{"task": "x"}', '{versions,1,metrics,loss_curve}', jsonb_agg(0))
  FROM generate_series(1, 100001);
SELECT id, attempt(format('SELECT ia3_import_task(%L)', export)) AS error FROM broken ORDER BY id;
-- an active version that is not there is not active
SELECT ia3_import_task('{"format": 1, "task": "empty", "backbone": "default", "template": ["{text}"], "versions": [], "active_version": 3}');
SELECT active_version, next_version FROM ia3.task WHERE task = 'empty';
-- nor can metrics, whatever they say, make ia3.adapters fail
SELECT bool_and(ia3_import_task(jsonb_set(ia3_export_task('moved'), '{versions,0,metrics}', metrics), 'metrics ' || id) IS NOT NULL) AS imported
  FROM unnest('{"{\"loss\": \"x\", \"loss_curve\": 1}","{\"loss\": 1e999, \"loss_curve\": [1e999, \"x\"]}","{\"loss\": 1e-999}","{\"loss\": [1]}","{\"loss\": null}",
    "{\"loss\": 0.5}","{}","null"}'::jsonb[]) WITH ORDINALITY m (metrics, id);
SELECT task, loss, loss_curve, ia3_plot(task || '@1') IS NOT NULL AS plot FROM ia3.adapters WHERE task ~ '^metrics' AND version = 1 ORDER BY 1;
SELECT ia3.json_number(v::jsonb, 'a') FROM (VALUES ('{"a": 1.5}'), ('{"b": 1}'), ('[1]'), ('1'), ('null')) x (v);

--
-- Other roles
--
SET ROLE regress_ia3_bob;
SELECT attempt($$SELECT ia3_copy('b', 'bobs')$$), attempt($$SELECT ia3_import_task('{}')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION ia3_train, ia3_copy, ia3_import_task(jsonb, text), ia3_import_task(text, text) TO regress_ia3_bob;
SET ROLE regress_ia3_bob;
-- a reader may copy and export, but without the queries; he cannot rename
SELECT attempt($$SELECT ia3_rename('moved', 'bobs')$$);
SELECT ia3_copy('moved', 'bobs');
SELECT owner, readers, active_version FROM ia3.task WHERE task = 'bobs';
SELECT count(*) AS versions, count(query) AS queries FROM ia3.adapters WHERE task = 'bobs';
SELECT jsonb_path_query_array(ia3_export_task('moved'), '$.versions[*].query') AS queries, ia3_export_task('moved')::text ~ 'charged' AS mentioned;
SELECT ia3_import_task(ia3_export_task('moved'), 'bobs too');
SELECT created_by, query FROM ia3.adapters WHERE task = 'bobs too';
-- without a grant a task does not exist
SELECT attempt($$SELECT ia3_rename('c', 'bobs again')$$), attempt($$SELECT ia3_copy('c', 'bobs again')$$), attempt($$SELECT ia3_export_task('c')$$);
SELECT attempt($$SELECT ia3_rename('nobody', 'bobs again')$$), attempt($$SELECT ia3_copy('nobody', 'bobs again')$$), attempt($$SELECT ia3_export_task('nobody')$$);
SELECT attempt($$SELECT ia3_rename('c', 'moved')$$), attempt($$SELECT ia3_rename('nobody', 'moved')$$);
-- a name that is taken answers exactly as training does
SELECT name, attempt(format($$SELECT ia3_train(%L, $q$VALUES ('a', 'x'), ('b', 'y')$q$, steps => 1)$$, name)) AS train,
       attempt(format($$SELECT ia3_rename('bobs', %L)$$, name)) = attempt(format($$SELECT ia3_train(%L, '')$$, name)) AS rename,
       attempt(format($$SELECT ia3_copy('bobs', %L)$$, name)) = attempt(format($$SELECT ia3_train(%L, '')$$, name)) AS copy,
       attempt(format($$SELECT ia3_import_task(ia3_export_task('bobs'), %L)$$, name)) = attempt(format($$SELECT ia3_train(%L, '')$$, name)) AS import
  FROM unnest('{c,moved}'::text[]) name;
RESET ROLE;

SELECT ia3_drop(task) FROM ia3.task;
SELECT count(*) FROM ia3.adapter_query;
REVOKE ALL ON FUNCTION ia3_train, ia3_copy, ia3_import_task(jsonb, text), ia3_import_task(text, text) FROM regress_ia3_alice, regress_ia3_bob;
DROP TABLE before, broken;
DROP FUNCTION attempt, contents;
DROP ROLE regress_ia3_alice, regress_ia3_bob;
