-- Inputs that are too long: what is cut from them, in training and in every kind of prediction.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET ia3.max_input_tokens = 64;

--
-- A long context before a question
--
CREATE TABLE reading (id int, context text, question text, label text);
INSERT INTO reading SELECT g, repeat('The rain fell on the town and the river rose. ', 12),
    CASE g % 2 WHEN 0 THEN 'Was there any snow' ELSE 'Did the river rise' END, CASE g % 2 WHEN 0 THEN 'no' ELSE 'yes' END
  FROM generate_series(1, 8) g;
-- a NOTICE says how many are cut, as soon as the run begins
SELECT ia3_train('told', 'SELECT * FROM reading', steps => 1, batch_size => 1, seed => 1,
    template => ARRAY['{context} Question: {question}? Answer:', 'No context: {question}?']);
SELECT ia3_train('told', 'SELECT * FROM reading', steps => 1, batch_size => 1, seed => 1, truncate => 'end',
    template => ARRAY['{context} Question: {question}? Answer:']);
SELECT ia3_drop('told');

SET client_min_messages = warning;
SELECT ia3_train('longest', 'SELECT * FROM reading ORDER BY id', steps => 3, seed => 1,
    template => ARRAY['{context} Question: {question}? Answer:', 'No context: {question}?']);
SELECT ia3_train('end', 'SELECT * FROM reading ORDER BY id', steps => 3, seed => 1, truncate => 'end',
    template => ARRAY['{context} Question: {question}? Answer:', 'No context: {question}?']);
SELECT task, recipe ->> 'truncate' AS truncate, metrics ->> 'truncated' AS truncated FROM ia3.adapters ORDER BY task;
\set VERBOSITY terse
SELECT ia3_train('longest', 'SELECT * FROM reading', truncate => 'middle');
SELECT ia3_train('longest', 'SELECT * FROM reading', truncate => '');
\set VERBOSITY default

-- the questions make a difference if they are read; read ahead or not
SELECT task, count(DISTINCT c.score) AS scores
  FROM (VALUES ('longest'), ('end')) t(task), reading r, ia3_classify(task, to_jsonb(r)) c WHERE c.choice = 'yes'
 GROUP BY task ORDER BY task;
SET ia3.enable_batching = off;
SELECT task, count(DISTINCT c.score) AS scores
  FROM (VALUES ('longest'), ('end')) t(task), reading r, ia3_classify(task, to_jsonb(r)) c WHERE c.choice = 'yes'
 GROUP BY task ORDER BY task;
RESET ia3.enable_batching;

-- the scores are those of a context that has been cut by hand
CREATE TABLE cut AS
    SELECT DISTINCT ON (id) id, left(context, n) AS context, question, label, n < length(context) AS shorter
      FROM reading r, generate_series(0, length(context)) n
     WHERE (SELECT count(*) FROM ia3_tokenize(left(context, n) || ' Question: ' || question || '? Answer:')) <= 64
       AND substr(context || ' ', n + 1, 1) IN (' ', '.')
     ORDER BY id, n DESC;
SELECT bool_and(shorter) AS shorter, count(*) FROM cut;
SELECT count(*) AS rows, count(*) FILTER (WHERE a.score = b.score) AS same
  FROM reading r JOIN cut USING (id), ia3_classify('longest', to_jsonb(r)) a, ia3_classify('longest', to_jsonb(cut)) b
 WHERE a.choice = b.choice;
-- generated text, a batch of calls, the window function, and evaluation
CREATE VIEW pairs AS SELECT r.id, r.label, to_jsonb(r) AS long, to_jsonb(cut) AS short FROM reading r JOIN cut USING (id);
SELECT count(*) AS rows, count(*) FILTER (WHERE ia3_generate('longest', long, 4) = ia3_generate('longest', short, 4)) AS generated,
       count(*) FILTER (WHERE ia3_generate('longest', long, 4, 1.0, 0, 7) = ia3_generate('longest', short, 4, 1.0, 0, 7)) AS sampled,
       count(*) FILTER (WHERE ia3_predict('longest', long) = ia3_predict('longest', short)) AS predicted
  FROM pairs;
SELECT count(*) AS rows, count(*) FILTER (WHERE a = b) AS same
  FROM (SELECT ia3_predict_window('longest', long) OVER () AS a, ia3_predict_window('longest', short) OVER () AS b FROM pairs) w;
SELECT a.accuracy = b.accuracy AND a.mean_score_gap = b.mean_score_gap AS evaluated
  FROM ia3_evaluate('longest', 'SELECT * FROM reading') a, ia3_evaluate('longest', 'SELECT * FROM cut') b;
SELECT accuracy = (SELECT avg((ia3_predict('longest', to_jsonb(r)) = label)::int) FROM reading r) AS predicted
  FROM ia3_evaluate('longest', 'SELECT * FROM reading');
-- and training: the same vectors
SELECT ia3_train('by hand', 'SELECT * FROM cut ORDER BY id', steps => 3, seed => 1,
    template => ARRAY['{context} Question: {question}? Answer:', 'No context: {question}?']);
SELECT count(DISTINCT digest) AS digests FROM ia3.adapter WHERE task IN ('longest', 'by hand');

-- an input that fits is the same with both
SET ia3.max_input_tokens = 512;
SELECT ia3_train('longest', 'SELECT * FROM reading ORDER BY id', steps => 3, seed => 1, template => ARRAY['{context} {question}']);
SELECT ia3_train('end', 'SELECT * FROM reading ORDER BY id', steps => 3, seed => 1, template => ARRAY['{context} {question}'], truncate => 'end');
SELECT count(DISTINCT digest) AS digests FROM ia3.adapter WHERE version = 2;
SELECT ia3_activate(task, 1) FROM ia3.task WHERE active_version = 2;
SET ia3.max_input_tokens = 64;

--
-- Versions whose recipe says nothing were trained with 'end'
--
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT task, 50, vectors, backbone_digest, recipe - 'truncate', current_user FROM ia3.adapter WHERE task = 'longest' AND version = 1;
SELECT count(DISTINCT c.score) AS scores FROM reading r, ia3_classify('longest@50', to_jsonb(r)) c WHERE c.choice = 'yes';
-- the version counts, not the task: both in one query, with the same rows
SELECT v, count(DISTINCT c.score) AS scores
  FROM unnest(ARRAY['longest@1', 'longest@50']) v, reading r, ia3_classify(v, to_jsonb(r)) c WHERE c.choice = 'yes' GROUP BY v ORDER BY v;
-- an imported version is like the active one of its task, and in a new task 'end'
SELECT ia3_import('longest', ia3_export('longest')), ia3_import('end', ia3_export('end')), ia3_import('new', ia3_export('longest'));
SELECT task, recipe ->> 'truncate' AS truncate FROM ia3.adapter WHERE recipe ? 'imported' ORDER BY task;

--
-- Several long fields, fields used twice, {choices}
--
SELECT ia3_train('several', $$SELECT 'x' AS a, 'y' AS b, label FROM reading$$, steps => 1, seed => 1, choices => ARRAY['yes', 'no'],
    template => ARRAY['{a} / {b} / {a} / {choices}']);
-- all are shortened to the same length, so words beyond it do not matter
SELECT count(DISTINCT c.score) AS scores
  FROM (VALUES (''), (' too'), (' many')) m(more),
       ia3_classify('several', jsonb_build_object('a', repeat('rain ', 40) || more, 'b', repeat('snow ', 40) || more)) c
 WHERE c.choice = 'yes';
-- a short one is complete
SELECT count(DISTINCT c.score) AS scores
  FROM (VALUES (''), (' too'), (' many')) m(more),
       ia3_classify('several', jsonb_build_object('a', repeat('rain ', 40), 'b', 'snow' || more)) c
 WHERE c.choice = 'yes';
-- {choices} belongs to the template
SELECT count(DISTINCT c.score) AS scores
  FROM (VALUES ('no'), ('perhaps'), ('never')) m(more),
       ia3_classify('several', jsonb_build_object('a', repeat('rain ', 90), 'b', 'snow'), ARRAY['yes', more]) c
 WHERE c.choice = 'yes';
-- what belongs to the template is not shortened
SELECT ia3_predict('several', '{"a": "rain", "b": "snow"}'::jsonb, (SELECT array_agg('choice number ' || g) FROM generate_series(1, 20) g));

--
-- Pre-training, and the counter
--
CREATE TABLE counter AS SELECT truncated_rows FROM ia3_stat_engine;
CALL ia3_pretrain('base', $$SELECT 'a task' AS task, * FROM reading ORDER BY id$$, template => ARRAY['{context} Question: {question}? Answer:'],
    steps => 2, batch_size => 2, seed => 1, checkpoint_every => 1, truncate => 'end');
CALL ia3_pretrain('base', $$SELECT 'a task' AS task, * FROM reading ORDER BY id$$, steps => 2, batch_size => 2, seed => 1, checkpoint_every => 0,
    templates => '{"a task": "{context} Question: {question}? Answer:"}');
SELECT recipe ->> 'truncate' AS truncate, metrics ->> 'truncated' AS truncated FROM ia3.adapter WHERE task = 'base' ORDER BY version;
SELECT sum(s.truncated_rows) - (SELECT sum(truncated_rows) FROM counter) AS by_training FROM ia3_stat_engine s;
SELECT ia3_predict('longest', to_jsonb(r)) IS NOT NULL AS predicted FROM reading r WHERE id = 1;
SELECT ia3_predict(repeat('rain ', 100), ARRAY['yes', 'no']) IS NOT NULL AS predicted;
SELECT ia3_predict('rain', ARRAY['yes', 'no']) IS NOT NULL AS predicted;
SELECT sum(s.truncated_rows) - (SELECT sum(truncated_rows) FROM counter) AS with_two_predictions FROM ia3_stat_engine s;

RESET ia3.max_input_tokens;
SELECT count(ia3_drop(task)) AS dropped FROM ia3.task;
DROP VIEW pairs;
DROP TABLE reading, cut, counter;
