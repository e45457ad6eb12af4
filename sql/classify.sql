-- Classification: results, overloads, fields, truncation, errors.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE TABLE shots (id int, text text, label text);
INSERT INTO shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');
SELECT ia3_train('tickets', $$SELECT text, label FROM shots ORDER BY id$$, steps => 60, seed => 7, learning_rate => 0.02,
    template => ARRAY['Ticket: {text} Topic:']);

-- rows are sorted from best to worst; score is a log-likelihood, probability the softmax of the scores
SELECT rank, choice IN ('billing', 'access') AS known, score < 0 AS score, probability BETWEEN 0 AND 1 AS probability
  FROM ia3_classify('tickets', 'my card was charged');
SELECT count(*), count(DISTINCT choice), abs(sum(probability) - 1) < 1e-9 AS normalised,
       array_agg(rank ORDER BY ordinality) = array_agg(rank ORDER BY score DESC) AS ordered,
       max(abs(probability - exp(score) / total)) < 1e-9 AS softmax
  FROM (SELECT *, sum(exp(score)) OVER () AS total FROM ia3_classify('tickets', 'my card was charged',
        ARRAY['billing', 'access', 'weather', 'a much longer answer']) WITH ORDINALITY) c;
SELECT bool_and(ia3_predict('tickets', text) = (SELECT choice FROM ia3_classify('tickets', text) WHERE rank = 1)) AS agrees
  FROM shots;
-- the task has learned its examples
SELECT count(*) FILTER (WHERE ia3_predict('tickets', text) = label) AS right, count(*) FROM shots;
SELECT avg(t.score) > avg(z.score) AS more_likely_than_before
  FROM shots, ia3_classify('tickets', text) t,
       ia3_classify('Ticket: ' || text || ' Topic:', ARRAY['billing', 'access']) z
 WHERE t.choice = label AND z.choice = label;

-- NULL arguments give no rows
SELECT count(*) FROM ia3_classify('tickets', NULL::text);
SELECT count(*) FROM ia3_classify(NULL, 'a text', ARRAY['a']);
SELECT count(*) FROM ia3_classify('tickets', 'a text', NULL);
SELECT ia3_predict('tickets', NULL::jsonb) IS NULL AS predict, ia3_predict(NULL::text, ARRAY['a', 'b']) IS NULL AS zero_shot;

-- overloads: two literals are task and text, an array makes the call zero-shot, jsonb needs a cast
SELECT ia3_predict('tickets', 'pay') IN ('billing', 'access') AS task;
SELECT ia3_predict('tickets', '{"text": "pay"}') IN ('billing', 'access') AS task_still_text;
SELECT ia3_predict('tickets', 'pay', '{bread,butter}') IN ('bread', 'butter') AS task_choices;
SELECT ia3_predict('tickets', ARRAY['bread', 'butter']) IN ('bread', 'butter') AS zero_shot;
SELECT ia3_predict('tickets'::varchar, 'pay'::name) IN ('billing', 'access') AS other_types;
SELECT count(*) AS rows FROM ia3_classify('tickets', '{"text": "pay"}'::jsonb, ARRAY['a', 'b', 'c']);
SELECT ia3_predict('nobody', 'pay');

-- the template is applied; a zero-shot call has none
SELECT a.score = b.score AS same FROM ia3_classify('tickets', 'pay') a
  JOIN ia3_classify('tickets', '{"text": "pay"}'::jsonb) b USING (choice);
-- with a learning rate too small to change anything all vectors stay ones, which is the bare backbone
SELECT ia3_train('bare', $$SELECT text, label FROM shots$$, steps => 1, learning_rate => 1e-9);
SELECT max(abs(a.score - b.score)) < 1e-5 AS ones_are_the_bare_backbone FROM ia3_classify('bare', 'pay the bill') a
  JOIN ia3_classify('pay the bill', ARRAY['billing', 'access']) b USING (choice);

-- fields
SELECT ia3_train('pair', $$SELECT text AS one, id AS two, label FROM shots ORDER BY id$$, steps => 1, learning_rate => 1e-9,
    template => ARRAY['{one} | {two} |']);
SELECT z.score = a.score AS rendered FROM ia3_classify('a b | 1.50 |', ARRAY['billing', 'access']) z
  JOIN ia3_classify('pair', '{"one": "a b", "two": 1.50}'::jsonb) a USING (choice);
SELECT z.score = a.score AS rendered FROM ia3_classify('true |  |', ARRAY['billing', 'access']) z
  JOIN ia3_classify('pair', '{"one": true, "two": null, "more": []}'::jsonb) a USING (choice);
SELECT ia3_train('braces', $$SELECT text, label FROM shots ORDER BY id$$, steps => 1, learning_rate => 1e-9,
    template => ARRAY['{{a}} {text} ({choices}):', 'only the first is used to classify {text}']);
SELECT z.score = a.score AS rendered FROM ia3_classify('{a} {pay} (billing, access):', ARRAY['billing', 'access']) z
  JOIN ia3_classify('braces', '{pay}') a USING (choice);
SELECT ia3_predict('pair', 'one text');
SELECT ia3_predict('pair', '{"one": "a"}'::jsonb);
SELECT ia3_predict('pair', '{}'::jsonb);
SELECT ia3_predict('pair', '{"one": "a", "two": {"b": 1}}'::jsonb);
SELECT ia3_predict('pair', '["one", "two"]'::jsonb);
SELECT ia3_predict('pair', '"one"'::jsonb);

-- calls of a task without choices
SELECT ia3_train('own', $$SELECT text, label, ARRAY['billing', 'access'] AS choices FROM shots$$, steps => 1, seed => 1);
SELECT ia3_predict('own', 'pay');
SELECT ia3_predict('own', 'pay', ARRAY['bread', 'butter']) IN ('bread', 'butter') AS given;
SELECT choice, score < 0 AS score, probability, rank FROM ia3_classify('own', 'pay', ARRAY['one']);

-- invalid choices
SELECT ia3_predict('tickets', 'pay', '{}'::text[]);
SELECT ia3_predict('tickets', 'pay', ARRAY['a', 'a']);
SELECT ia3_predict('tickets', 'pay', ARRAY['apple', 'pear', 'apple ']);
SELECT ia3_predict('pay', ARRAY['apple', '  ']);

-- truncation keeps what follows the last field, and fails if that alone is too long
SET ia3.max_input_tokens = 32;
SELECT count(*) AS differing FROM ia3_classify('tickets', repeat('my card was charged ', 50)) a
  JOIN ia3_classify('tickets', repeat('my card was charged ', 90)) b USING (choice) WHERE a.score <> b.score;
SELECT count(*) AS differing FROM ia3_classify(repeat('pay the bill ', 50), ARRAY['billing', 'access']) a
  JOIN ia3_classify(repeat('pay the bill ', 90), ARRAY['billing', 'access']) b USING (choice) WHERE a.score <> b.score;
UPDATE ia3.task SET template = ARRAY['{text}' || repeat(' and so on', 40)] WHERE task = 'bare';
SELECT ia3_predict('bare', 'pay');
RESET ia3.max_input_tokens;
SELECT ia3_predict('bare', 'pay') IN ('billing', 'access') AS fits;

-- an adapter of another backbone, and bytes that are not an adapter
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT 'tickets', 100, vectors, sha256('another backbone'), '{}', current_user FROM ia3.adapter WHERE task = 'tickets';
\set VERBOSITY terse
SELECT ia3_predict('tickets@100', 'pay');
SELECT ia3_train('tickets', $$SELECT text, label FROM shots$$, init => 'tickets@100', steps => 1);
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT 'tickets', 101, 'rubbish', backbone_digest, '{}', current_user FROM ia3.adapter
     WHERE task = 'tickets' AND version = 1;
DO $$
BEGIN
    PERFORM ia3_predict('tickets@101', 'pay');
EXCEPTION WHEN invalid_binary_representation THEN
    RAISE WARNING 'refused';
END $$;
\set VERBOSITY default
SELECT ia3_predict('tickets', 'pay') IN ('billing', 'access') AS still_works;

-- many tasks in one statement
SELECT count(*) AS rows, bool_and(probability > 0) AS probable
  FROM (VALUES ('tickets'), ('pair@1'), ('bare')) t(task), shots s,
       ia3_classify(t.task, jsonb_build_object('text', s.text, 'one', s.text, 'two', s.id)) c;

-- calls in a parallel worker, in a view, and in a prepared statement
CREATE VIEW predicted AS SELECT id, ia3_predict('tickets', text) AS label FROM shots;
SELECT count(*) FROM predicted WHERE label IN ('billing', 'access');
SELECT count(set_config(name, 'on', false)) AS parallel FROM pg_settings
 WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT count(*) FROM predicted WHERE label IN ('billing', 'access');
SELECT count(set_config(name, 'off', false)) AS parallel FROM pg_settings
 WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
PREPARE p(text) AS SELECT ia3_predict('tickets', $1) IN ('billing', 'access') AS ok;
EXECUTE p('pay');
EXECUTE p('log in');
DEALLOCATE p;

-- control tokens in a text are tokenized as text
SELECT * FROM ia3_tokenize('a') ORDER BY position;
SELECT count(*) FILTER (WHERE id = 1) AS ends, max(position) > 3 AS cut FROM ia3_tokenize('</s><pad>');
SELECT count(*) AS pieces FROM ia3_tokenize('', 'default');
SELECT count(*) FROM ia3_tokenize(NULL);

-- the view of the engines
SELECT backbone, device, state, rows > 0 AS rows, batches > 0 AS batches, parameters > 0 AS parameters, train_steps > 0 AS steps
  FROM ia3_stat_engine;
SELECT ia3_version();

DROP VIEW predicted;
SELECT ia3_drop(task) FROM ia3.task;
DROP TABLE shots;
