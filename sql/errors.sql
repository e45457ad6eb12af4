-- Errors of ia3_train, in the order of its checks: arguments, query, examples. Nothing is trained here.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

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

CREATE TABLE shots (id int, text text, label text);
INSERT INTO shots VALUES (1, 'the invoice is wrong', 'billing'), (2, 'cannot log in', 'access'),
    (3, 'charged twice', 'billing'), (4, 'forgot my password', 'access');

\pset format unaligned
\pset tuples_only on

-- names
SELECT attempt($$SELECT ia3_train(NULL, 'SELECT text, label FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', NULL)$$);
SELECT attempt($$SELECT ia3_train('', 'SELECT text, label FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t@2', 'SELECT text, label FROM shots')$$);
SELECT attempt($$SELECT ia3_train(E'a\nb', 'SELECT text, label FROM shots')$$);
SELECT attempt($$SELECT ia3_train('None', 'SELECT text, label FROM shots')$$);
SELECT attempt($$SELECT ia3_train(repeat('x', 201), 'SELECT text, label FROM shots')$$);

-- options
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 0)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', batch_size => -1)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', learning_rate => 'NaN')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', learning_rate => 0)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', warmup_ratio => 1.5)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', dropout => 1)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', lm_weight => -1)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', lm_weight => 0, unlikelihood_weight => 0,
    length_norm_weight => 0)$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', loss_averaging => 'median')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', init => 'nobody')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', init => 'nobody@x')$$);

-- templates
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => '{}')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY['{text}', NULL])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY[['{text}'], ['{text}']])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY['Äh {text'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY['{text} }'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY['a {} b'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY['{a{b}}'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY['{text} {label}'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', template => ARRAY['{{text}} {choices}'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT * FROM shots', template => ARRAY['{text}', '{body}'])$$);

-- the query
SELECT attempt($$SELECT ia3_train('t', '')$$);
SELECT attempt($$SELECT ia3_train('t', ' ; ')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text FROM')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots; SELECT 1, 2')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM nowhere')$$);
SELECT attempt($$SELECT ia3_train('t', 'SHOW work_mem')$$);
SELECT attempt($$SELECT ia3_train('t', 'EXPLAIN SELECT text, label FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', 'DELETE FROM shots RETURNING text, label')$$);
SELECT attempt($$SELECT ia3_train('t', 'WITH d AS (DELETE FROM shots RETURNING *) SELECT text, label FROM d')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots FOR UPDATE')$$);
CREATE FUNCTION sneaky() RETURNS text LANGUAGE sql AS $$INSERT INTO shots VALUES (5, 'x', 'y') RETURNING text$$;
SELECT attempt($$SELECT ia3_train('t', 'SELECT sneaky() AS text, label FROM shots')$$);
SELECT count(*) FROM shots;

-- the columns of the query
SELECT attempt($$SELECT ia3_train('t', 'SELECT')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT id, text, label AS kind FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT id, text AS body, label FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label, text AS label FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label, ''a, b'' AS choices FROM shots')$$);

-- the rows of the query
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots WHERE false')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, nullif(label, ''access'') FROM shots ORDER BY id')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT nullif(text, ''charged twice''), label FROM shots ORDER BY id')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label, ARRAY[label, NULL] AS choices FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, ''billing'' FROM shots')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, nullif(label, label) || ''x'' FROM shots')$$);

-- choices
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots ORDER BY id', choices => ARRAY['billing', 'other'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', choices => ARRAY['billing', 'access', 'billing'])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', choices => ARRAY['billing', ''])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', choices => ARRAY['billing', NULL])$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', choices => '{}')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label, ARRAY[''access'', ''other''] AS choices FROM shots ORDER BY id')$$);
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label, ARRAY[label, label] AS choices FROM shots ORDER BY id')$$);

-- an error inside the query is reported as it is; two unnamed columns are both called text and are taken by position
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, (1 / (id - 3))::text FROM shots ORDER BY id')$$);

-- backbones
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots', backbone => 'nowhere')$$);
SELECT attempt($$SELECT * FROM ia3_tokenize('text', 'nowhere')$$);

-- read-only transactions
BEGIN TRANSACTION READ ONLY;
SELECT attempt($$SELECT ia3_train('t', 'SELECT text, label FROM shots')$$);
SELECT attempt($$SELECT ia3_activate('t', 1)$$);
SELECT attempt($$SELECT ia3_drop('t')$$);
COMMIT;

-- tasks and versions that do not exist
SELECT attempt($$SELECT * FROM ia3_classify('t', 'a text')$$);
SELECT attempt($$SELECT * FROM ia3_classify('t', 'a text', ARRAY['a', 'b'])$$);
SELECT attempt($$SELECT * FROM ia3_classify('t', '{"text": "a"}'::jsonb)$$);
SELECT attempt($$SELECT ia3_predict('t', 'a text')$$);
SELECT attempt($$SELECT ia3_predict('t@1', 'a text')$$);
SELECT attempt($$SELECT ia3_predict('t@', 'a text')$$);
SELECT attempt($$SELECT ia3_predict('t@0', 'a text')$$);
SELECT attempt($$SELECT ia3_predict('t@1@2', 'a text')$$);
SELECT attempt($$SELECT ia3_predict('t@99999999999', 'a text')$$);
SELECT attempt($$SELECT ia3_predict('', 'a text')$$);
SELECT attempt($$SELECT ia3_activate('t', 1)$$);
SELECT attempt($$SELECT ia3_drop('t')$$);
SELECT attempt($$SELECT ia3_drop('t', 1)$$);
SELECT attempt($$SELECT ia3_drop('t@1')$$);

-- zero-shot choices
SELECT attempt($$SELECT * FROM ia3_classify('a text', ARRAY[]::text[])$$);
SELECT attempt($$SELECT * FROM ia3_classify('a text', ARRAY['a', NULL])$$);
SELECT attempt($$SELECT * FROM ia3_classify('a text', ARRAY['a', 'b', 'a'])$$);
SELECT attempt($$SELECT ia3_predict('a text', ARRAY['a', ''])$$);

-- none of these calls has stored anything
SELECT count(*) FROM ia3.task;
SELECT count(*) FROM ia3.adapter;
DROP FUNCTION sneaky, attempt;
DROP TABLE shots;

-- the context of an error has the user's statements, but not ours
CREATE FUNCTION ask(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN ia3_predict($1, 'pay'); END $$;
CREATE ROLE regress_ia3_asker;
BEGIN;
REVOKE SELECT ON ia3.task FROM PUBLIC;
SET ROLE regress_ia3_asker;
SAVEPOINT s;
SELECT ia3_predict('some task', 'pay');
ROLLBACK TO s;
SELECT ask('some task');
ROLLBACK TO s;
SELECT ia3_drop('some task', 1);
ROLLBACK;
DROP ROLE regress_ia3_asker;
DROP FUNCTION ask;
