-- Which function a call means when arguments have no types, or other types than the function, as drivers send them. The
-- drivers themselves are tested by test/drivers.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE TABLE shots (subject text, body text, label text);
INSERT INTO shots VALUES ('Payment', 'I was charged twice', 'billing'), ('Crash', 'the app closes', 'bug'),
    ('Invoice', 'the amount is wrong', 'billing'), ('Page', 'it stays blank', 'bug');
SELECT ia3_train('text', 'SELECT body AS text, label FROM shots', steps => 20, seed => 1);
SELECT ia3_train('fields', 'SELECT * FROM shots', template => ARRAY['{subject}: {body}'], steps => 20, seed => 1);
SELECT ia3_train('one', 'SELECT body, label FROM shots', template => ARRAY['{body}'], steps => 20, seed => 1);

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
-- the types that PostgreSQL gives to the parameters of a call
CREATE FUNCTION parameters(call text) RETURNS regtype[] LANGUAGE plpgsql AS $$
DECLARE types regtype[];
BEGIN
    EXECUTE 'PREPARE overloads_probe AS SELECT * FROM ' || call;
    SELECT parameter_types INTO types FROM pg_prepared_statements WHERE name = 'overloads_probe';
    DEALLOCATE overloads_probe;
    RETURN types;
END $$;

\pset format unaligned
\pset tuples_only on

-- parameters without types: each name with one meaning has the types that it needs
SELECT call, parameters(call) FROM unnest(ARRAY[
    'ia3_predict($1, $2)', 'ia3_predict($1, $2, $3)', 'ia3_predict_fields($1, $2)', 'ia3_predict_fields($1, $2, $3)',
    'ia3_predict_zero_shot($1, $2)', 'ia3_zero_shot($1, $2)',
    'ia3_predict($1, $2, $3, $4)', 'ia3_predict($1, $2, min_probability => $3)', 'ia3_predict($1, $2, choices => $3)',
    'ia3_predict_fields($1, $2, $3, $4)', 'ia3_predict_fields($1, $2, min_probability => $3)',
    'ia3_evaluate($1, $2)', 'ia3_evaluate($1, $2, $3)',
    'ia3_classify($1, $2)', 'ia3_classify($1, $2, $3)', 'ia3_classify_fields($1, $2)', 'ia3_classify_fields($1, $2, $3)',
    'ia3_classify_zero_shot($1, $2)',
    'ia3_generate($1)', 'ia3_generate($1, $2)', 'ia3_generate($1, $2, $3)', 'ia3_generate($1, $2, $3, $4)',
    'ia3_generate($1, $2, $3, $4, $5)', 'ia3_generate($1, $2, $3, $4, $5, $6)',
    'ia3_generate_fields($1, $2)', 'ia3_generate_fields($1, $2, $3)', 'ia3_generate_fields($1, $2, $3, $4)',
    'ia3_generate_fields($1, $2, $3, $4, $5, $6)',
    'ia3_generate_zero_shot($1)', 'ia3_generate_zero_shot($1, $2)', 'ia3_generate_zero_shot($1, $2, $3)',
    'ia3_generate_zero_shot($1, $2, $3, $4, $5)',
    'ia3_plot($1)', 'ia3_plot($1, $2)', 'ia3_plot_version($1, $2)', 'ia3_drop($1)', 'ia3_drop($1, $2)',
    'ia3_render($1, $2)', 'ia3_render($1, $2, $3)', 'ia3_tokenize($1)', 'ia3_tokenize($1, $2)', 'ia3_sparkline($1)',
    'ia3_import($1, $2)', 'ia3_import($1, $2, $3)']) call;
SELECT call, parameters('(SELECT ' || call || ' OVER ()) w') FROM unnest(ARRAY[
    'ia3_predict_window($1, $2)', 'ia3_predict_window($1, $2, $3)', 'ia3_predict_window_fields($1, $2)',
    'ia3_predict_window_fields($1, $2, $3)', 'ia3_predict_window_zero_shot($1, $2)',
    'ia3_predict_window($1, $2, $3, $4)', 'ia3_predict_window($1, $2, min_probability => $3)',
    'ia3_predict_window_fields($1, $2, $3, $4)', 'ia3_predict_window_fields($1, $2, min_probability => $3)']) call;

-- a call with two or three arguments means a function without min_probability, whatever the types of its arguments are
CREATE FUNCTION meant(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE arguments text;
BEGIN
    EXECUTE 'CREATE TEMP VIEW meant_view AS SELECT ' || call || ' AS x';
    SELECT string_agg(DISTINCT p.oid::regprocedure::text, ' ') INTO arguments
      FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_proc p ON p.oid = d.refobjid
     WHERE r.ev_class = 'meant_view'::regclass AND d.refclassid = 'pg_proc'::regclass AND p.proname ~ '^ia3_';
    DROP VIEW meant_view;
    RETURN arguments;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END $$;
SELECT name, string_agg(DISTINCT meant(format('%s(%s, %s%s)%s', name, task, input, choices, CASE WHEN name ~ 'window' THEN ' OVER ()' END)), ' ')
  FROM unnest('{ia3_predict,ia3_predict_fields,ia3_predict_window,ia3_predict_window_fields}'::text[]) name,
       unnest(ARRAY[$$'t'$$, $$'t'::text$$, $$'t'::varchar$$, $$'t'::name$$, $$'t'::char(3)$$]) task,
       unnest(ARRAY[$$'{}'$$, $$'{}'::text$$, $$'{}'::varchar$$, $$'{}'::jsonb$$, $$'{}'::json$$]) input,
       unnest(ARRAY['', $$, '{a}'$$, $$, '{a}'::text[]$$, $$, '{a}'::varchar[]$$, $$, choices => '{a}'$$]) choices
 GROUP BY name ORDER BY name;
SELECT call, meant(call) FROM unnest(ARRAY[
    $$ia3_predict('t', 'x', min_probability => 0.5)$$, $$ia3_predict('t'::varchar, 'x'::varchar, NULL, 0.5::real)$$,
    $$ia3_predict('t', 'x', '{a}', '0.5')$$, $$ia3_predict('t', '{}'::jsonb, min_probability => 1)$$,
    $$ia3_predict('t', '{}'::json, '{a}'::varchar[], 0.5::numeric)$$, $$ia3_predict_fields('t', '{}', min_probability => 0.5)$$,
    $$ia3_predict('t', 'x', 0.5)$$]) call;
-- a view is dumped so that it means the same function again
CREATE TABLE overloads_rows (task varchar, body text, doc jsonb, p real);
CREATE VIEW overloads_view AS
    SELECT ia3_predict('text', body) AS a, ia3_predict(task, body, min_probability => p) AS b, ia3_predict('text', body, NULL, 0.5) AS c,
           ia3_predict_fields(task, doc, min_probability => 0.5) AS d, ia3_predict_window('text', body, min_probability => 0.5) OVER () AS e
      FROM overloads_rows;
CREATE TABLE overloads_before AS SELECT pg_get_viewdef('overloads_view') AS definition;
DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW overloads_view AS ' || pg_get_viewdef('overloads_view'); END $$;
SELECT definition = pg_get_viewdef('overloads_view') FROM overloads_before;
SELECT DISTINCT p.oid::regprocedure::text COLLATE "C" FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_proc p ON p.oid = d.refobjid
 WHERE r.ev_class = 'overloads_view'::regclass AND d.refclassid = 'pg_proc'::regclass AND p.proname ~ '^ia3_' ORDER BY 1;
DROP VIEW overloads_view;
DROP TABLE overloads_rows, overloads_before;
DROP FUNCTION meant;

-- max_tokens is max_tokens, whatever integer the client sends; temperature may be any number
SELECT call, parameters(call) FROM unnest(ARRAY[
    'ia3_generate($1, $2, 8::smallint)', 'ia3_generate($1, $2, 8)', 'ia3_generate($1, $2, 8::smallint, 1::smallint)',
    'ia3_generate($1, $2, 8::smallint, 0.7::numeric)', 'ia3_generate($1, $2, 8, 0.7::real, 5::smallint, 1::smallint)',
    'ia3_generate($1, 8::smallint)', 'ia3_generate($1, 8::smallint, 0.7::float8)', 'ia3_generate($1, 8, 1::smallint)',
    'ia3_generate($1, 8, 0.7::numeric, 5, 1::smallint)', 'ia3_generate($1, temperature => $2, max_tokens => $3)']) call;
SELECT ia3_generate('text', 'hello', 8::smallint) = ia3_generate('text'::text, 'hello'::text, 8),
       ia3_generate('hello', 8::smallint, 1::smallint, seed => 3) = ia3_generate('hello', 8, 1.0, 0, 3);
SELECT attempt($$SELECT ia3_generate('hello', 8, -1)$$);
-- a view that was dumped when the argument was a float8
CREATE VIEW warm AS SELECT ia3_generate('hello'::text, 8, (0.9)::double precision, 0, 7::bigint) AS text;
SELECT text = ia3_generate('hello', 8, 0.9, seed => 7) FROM warm;
DROP VIEW warm;

-- fields as jsonb, as json and as text give the same
SELECT ia3_predict('fields', to_jsonb(s)) = ALL (ARRAY[ia3_predict('fields', row_to_json(s)),
           ia3_predict_fields('fields', to_jsonb(s)), ia3_predict_fields('fields', row_to_json(s)),
           ia3_predict_fields('fields', row_to_json(s)::text)]),
       ia3_predict('fields', to_jsonb(s), ARRAY['x', 'y']) = ALL (ARRAY[ia3_predict('fields', row_to_json(s), ARRAY['x', 'y']),
           ia3_predict_fields('fields', to_jsonb(s), ARRAY['x', 'y']),
           ia3_predict_fields('fields', row_to_json(s), ARRAY['x', 'y']),
           ia3_predict_fields('fields', row_to_json(s)::text, ARRAY['x', 'y'])])
  FROM shots s;
SELECT ia3_predict_window('fields', to_jsonb(s)) OVER () = ALL (ARRAY[ia3_predict_window('fields', row_to_json(s)) OVER (),
           ia3_predict_window_fields('fields', to_jsonb(s)) OVER (), ia3_predict_window_fields('fields', row_to_json(s)) OVER (),
           ia3_predict_window_fields('fields', row_to_json(s)::text) OVER ()]),
       ia3_predict_window('fields', to_jsonb(s), ARRAY['x', 'y']) OVER () = ALL (ARRAY[
           ia3_predict_window('fields', row_to_json(s), ARRAY['x', 'y']) OVER (),
           ia3_predict_window_fields('fields', to_jsonb(s), ARRAY['x', 'y']) OVER (),
           ia3_predict_window_fields('fields', row_to_json(s), ARRAY['x', 'y']) OVER (),
           ia3_predict_window_fields('fields', row_to_json(s)::text, ARRAY['x', 'y']) OVER ()]),
       ia3_predict_window(body, ARRAY['x', 'y']) OVER () = ia3_predict_window_zero_shot(body, ARRAY['x', 'y']) OVER ()
  FROM shots s;
-- so do all ways to rank them
CREATE FUNCTION ranked(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
    EXECUTE 'SELECT string_agg(c::text, '' '' ORDER BY rank) FROM shots s, ' || call || ' c WHERE s.subject = ''Crash''' INTO result;
    RETURN result;
END $$;
SELECT count(*), count(DISTINCT ranked(call)) FROM unnest(ARRAY[
    $$ia3_classify('fields', to_jsonb(s))$$, $$ia3_classify('fields', row_to_json(s))$$,
    $$ia3_classify_fields('fields', to_jsonb(s))$$, $$ia3_classify_fields('fields', row_to_json(s))$$,
    $$ia3_classify_fields('fields', row_to_json(s)::text)$$]) call;
SELECT count(*), count(DISTINCT ranked(call)) FROM unnest(ARRAY[
    $$ia3_classify('fields', to_jsonb(s), ARRAY['x', 'y'])$$, $$ia3_classify('fields', row_to_json(s), ARRAY['x', 'y'])$$,
    $$ia3_classify_fields('fields', to_jsonb(s), ARRAY['x', 'y'])$$,
    $$ia3_classify_fields('fields', row_to_json(s), ARRAY['x', 'y'])$$,
    $$ia3_classify_fields('fields', row_to_json(s)::text, ARRAY['x', 'y'])$$]) call;
SELECT count(*), count(DISTINCT ranked(call)) FROM unnest(ARRAY[
    $$ia3_classify(s.body, ARRAY['x', 'y'])$$, $$ia3_classify_zero_shot(s.body, ARRAY['x', 'y'])$$]) call;
SELECT ia3_predict(body, ARRAY['x', 'y']) = ALL (ARRAY[ia3_zero_shot(body, ARRAY['x', 'y']),
           ia3_predict_zero_shot(body, ARRAY['x', 'y'])]) FROM shots;
SELECT ia3_generate('fields', to_jsonb(s), 4) = ALL (ARRAY[ia3_generate('fields', row_to_json(s), 4),
           ia3_generate_fields('fields', to_jsonb(s), 4), ia3_generate_fields('fields', row_to_json(s), 4),
           ia3_generate_fields('fields', row_to_json(s)::text, 4)]),
       ia3_generate('fields', to_jsonb(s), 4, 0.9, seed => 1) = ALL (ARRAY[
           ia3_generate('fields', row_to_json(s), 4, 0.9, seed => 1),
           ia3_generate_fields('fields', to_jsonb(s), 4, 0.9, seed => 1),
           ia3_generate_fields('fields', row_to_json(s), 4, 0.9, seed => 1),
           ia3_generate_fields('fields', row_to_json(s)::text, 4, 0.9, seed => 1)]),
       ia3_generate(body, 4) = ia3_generate_zero_shot(body, 4),
       ia3_generate(body, 4, 0.9, seed => 1) = ia3_generate_zero_shot(body, 4, 0.9, seed => 1)
  FROM shots s;
SELECT ia3_render('{a} {choices}', v::jsonb, c), ia3_render('{a} {choices}', v::json, c), ia3_render('{a} {choices}', v, c),
       ia3_render('{a}', v::jsonb), ia3_render('{a}', v::json), ia3_render('{a}', v)
  FROM (VALUES ('{"a": [1, "x"]}', ARRAY['y', 'z'])) r (v, c);
SELECT ia3_sparkline('[3, 1]'::jsonb), ia3_sparkline('[3, 1]'::json), ia3_sparkline('[3, 1]'::text), ia3_sparkline('[3, 1]'),
       ia3_sparkline('{}'::json) IS NULL;
SELECT ia3_plot('text', 1) = ia3_plot_version('text', 1);
SELECT ia3_import('copy', ia3_export('text'), ia3_export_config('text')::json),
       ia3_import('copy', ia3_export('text'), ia3_export_config('text')::text);
SELECT ia3_predict_fields(NULL, '{}'), ia3_predict_fields('fields', NULL::text), ia3_zero_shot(NULL, ARRAY['a', 'b']),
       ia3_generate_fields('fields', NULL::json, 4, 0.5) IS NULL;

-- JSON given as a text is an error for a task whose template has no field of that name, and only for such a task
SELECT attempt($$SELECT ia3_predict('fields', '{"subject": "Crash", "body": "the page stays blank"}')$$);
SELECT attempt($$SELECT ia3_predict('one', ' {"body": "the page stays blank"} ')$$);
SELECT attempt($$SELECT ia3_predict('one', '{"body": "the page stays blank"}', ARRAY['x', 'y'])$$);
SELECT attempt($$SELECT * FROM ia3_classify('one', '{"body": "the page stays blank"}')$$);
SELECT attempt($$SELECT ia3_generate('one', '{}')$$);
SELECT attempt($$SELECT ia3_predict_window('one', '{}') OVER ()$$);
SELECT attempt($$SELECT ia3_predict('one', t) FROM (VALUES ('{'), ('{}}'), ('{ not JSON }'), ('[{}]'), ('"{}"'), (' '), ('')) v (t)$$);
SELECT attempt($$SELECT ia3_predict('text', '{"text": "the page stays blank"}')$$);
SELECT attempt($$SELECT ia3_predict('fields', 'the page stays blank')$$);
SELECT attempt($$SELECT ia3_generate('fields', 'the page stays blank')$$);

-- a text that is not JSON, or no object, is an error of the functions that take fields
SELECT attempt($$SELECT ia3_predict_fields('fields', 'the page stays blank')$$);
SELECT attempt($$SELECT ia3_predict_fields('fields', '[1]')$$);
SELECT attempt($$SELECT ia3_predict_fields('fields', '{"body": "the page stays blank"}')$$);
SELECT attempt($$SELECT ia3_generate_fields('fields', '"x"')$$);

-- a call without a task that is taken for one with a task
SELECT attempt($$SELECT ia3_predict('Is this good or bad?', '{good,bad}')$$);
SELECT attempt($$SELECT ia3_predict('Is this @ good or bad?', '{good,bad}')$$);
SELECT attempt($$SELECT ia3_predict(repeat('good? ', 100), '{good,bad}')$$);
SELECT attempt($$SELECT * FROM ia3_classify('Is this good or bad?', '{"good",bad}')$$);
SELECT attempt($$SELECT ia3_predict_window('Is this good or bad?', '{good,bad}') OVER ()$$);
SELECT attempt($$SELECT ia3_generate('Hello', '8')$$);
SELECT attempt($$SELECT ia3_generate('Hello', '8', 8)$$);
-- these are just unknown tasks
SELECT attempt($$SELECT ia3_predict('Is this good or bad?', 'good')$$);
SELECT attempt($$SELECT ia3_predict('Is this good or bad?', '{"text": "good"}')$$);
SELECT attempt($$SELECT ia3_predict('Is this good or bad?', '{good,bad}', '{good,bad}')$$);
SELECT attempt($$SELECT ia3_generate('Hello', 'you')$$);
SELECT attempt($$SELECT ia3_plot('text', '1')$$);
SELECT attempt($$SELECT ia3_plot_version('text', 7)$$);

-- the functions have the properties of those that they stand beside, and the same roles may execute them
SELECT DISTINCT regexp_replace(proname, '_(fields|zero_shot)$', '') AS name, provolatile, proisstrict, proparallel, prokind,
       procost, prorows, has_function_privilege('pg_monitor', oid, 'EXECUTE') AS granted
  FROM pg_proc WHERE proname ~ '^ia3_(predict|classify|generate|render|sparkline|import|plot(_version)?$)' AND pronargs < 4
    AND NOT (proname ~ 'generate' AND provolatile = 'v')
 ORDER BY name, provolatile;

SELECT ia3_drop(task) FROM ia3.task;
DROP FUNCTION attempt, parameters, ranked;
DROP TABLE shots;
