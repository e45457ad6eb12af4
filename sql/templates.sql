-- Templates and choices: the input that the model gets, and that training and prediction give it the same.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

--
-- Rendering
--
SELECT ia3_render('{text}', '{"text": "a"}');
SELECT ia3_render('{a} and {b}, {a}', '{"a": "x", "b": "y", "c": "unused"}');
SELECT ia3_render('{{a}} {{{a}}} }}{{', '{"a": "x"}');
SELECT ia3_render('{a} ({choices})', '{"a": "x", "choices": "not this"}', ARRAY['yes', 'no', 'it, depends']);
-- inserted values are not interpreted
SELECT ia3_render('{a} {b}', '{"a": "{b} {{ }", "b": "\\1 %s \n"}');
-- any scalar is accepted; null is an empty string; names are compared exactly
SELECT ia3_render('{a}|{b}|{c}|{d}', '{"a": 1.50, "b": true, "c": null, "d": ""}');
SELECT ia3_render('{a b}|{A}|{é}', '{"a b": 1, "A": 2, "a": 3, "é": 4}');
SELECT ia3_render(NULL, '{}') IS NULL AS strict;
\set VERBOSITY terse
SELECT ia3_render('{a} {b}', '{"a": "x"}');
SELECT ia3_render('{a}', '{"a": {"b": 1}}');
SELECT ia3_render('{a}', '["a"]');
SELECT ia3_render('{a', '{}');
SELECT ia3_render('ä } {a}', '{}');
SELECT ia3_render('no field', '{}');
\set VERBOSITY default
SELECT ia3_train('unquoted', $$VALUES ('a', 'x'), ('b', 'y')$$, template => '{text}');
\set VERBOSITY terse
SELECT ia3_render('{a} {choices}', '{"a": "x"}');
SELECT ia3_render('{label}', '{"label": "x"}');
-- a long template is shown in part, and any number of fields ends in time
SELECT ia3_render(repeat('ä', 10000) || ' } ' || repeat('é', 10000) || '{a}', '{}');
SELECT ia3_render(repeat('no field ', 10000), '{}');
SET statement_timeout = '2min';
SELECT length(ia3_render((SELECT string_agg('{f' || g || '}', '') FROM generate_series(1, 300000) g),
                         (SELECT jsonb_object_agg('f' || g, 'x') FROM generate_series(1, 300000) g)));
RESET statement_timeout;
\set VERBOSITY default

--
-- Rows with choices of their own (which of two causes or effects), several templates, fields made by the query
--
CREATE TABLE copa (id int, premise text, question text, choice1 text, choice2 text, label int);
INSERT INTO copa VALUES
    (1, 'The rain did not stop for days.', 'effect', 'The cellar was flooded.', 'The cellar was painted.', 0),
    (2, 'The shop was closed.', 'cause', 'The clerk was friendly.', 'It was a holiday.', 1),
    (3, 'The boy put on a coat.', 'cause', 'It was cold outside.', 'He lost his key.', 0),
    (4, 'The cup fell to the floor.', 'effect', 'It was full of tea.', 'It broke.', 1);
CREATE VIEW examples AS
    SELECT id, premise, CASE question WHEN 'cause' THEN 'because' ELSE 'so' END AS word,
           CASE label WHEN 0 THEN choice1 ELSE choice2 END AS label, ARRAY[choice1, choice2] AS choices
      FROM copa;
SELECT ia3_train('copa', 'SELECT * FROM examples ORDER BY id', steps => 4, seed => 3,
    template => ARRAY['{premise} {word} ({choices})', 'Which one? {choices} {premise} {word}', '{premise} {word}']);
SELECT template, choices FROM ia3.task;
SELECT examples, metrics ->> 'truncated' AS truncated FROM ia3.adapters;

-- each row is predicted with its own choices
SELECT e.id, count(*), bool_and(c.choice = ANY (e.choices)) AS own, count(DISTINCT c.choice) AS different,
       round(sum(c.probability)::numeric, 6) AS probability
  FROM examples e, ia3_classify('copa', to_jsonb(e), e.choices) c GROUP BY e.id ORDER BY e.id;
SELECT count(*) FROM examples e WHERE ia3_predict('copa', to_jsonb(e), e.choices) = ANY (e.choices);
SELECT ia3_predict('copa', to_jsonb(e)) FROM examples e WHERE id = 1;
-- predictions use the first template and give the same as its text without a template
SELECT ia3_train('plain', $$SELECT ia3_render('{premise} {word} ({choices})', to_jsonb(e), e.choices) AS text, label, choices
    FROM examples e ORDER BY id$$, steps => 1, seed => 3, learning_rate => 1e-9, init => 'copa');
SELECT count(*) AS rows, count(*) FILTER (WHERE a.score = b.score) AS same
  FROM examples e, ia3_classify('copa', to_jsonb(e), e.choices) a,
       ia3_classify('plain', ia3_render('{premise} {word} ({choices})', to_jsonb(e), e.choices), e.choices) b
 WHERE a.choice = b.choice;

-- of several templates one is drawn for each example and step: none of them alone gives these vectors
SELECT ia3_train('drawn', 'SELECT * FROM examples ORDER BY id', steps => 4, seed => 3, template => ARRAY[a.t]) AS version
  FROM (VALUES (1, '{premise} {word} ({choices})'), (2, 'Which one? {choices} {premise} {word}'), (3, '{premise} {word}')) a(id, t)
 ORDER BY a.id;
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task IN ('copa', 'drawn');
-- but several equal templates are like one
SELECT ia3_train('twice', 'SELECT * FROM examples ORDER BY id', steps => 4, seed => 3,
    template => ARRAY['{premise} {word}', '{premise} {word}', '{premise} {word}']);
SELECT a.digest = b.digest AS same FROM ia3.adapter a, ia3.adapter b WHERE a.task = 'twice' AND b.task = 'drawn' AND b.version = 3;

--
-- Truncation: the end of the last field is cut off, the tail stays; truncated texts are counted
--
SET ia3.max_input_tokens = 24;
SELECT ia3_train('cut', $$SELECT id, repeat(premise || ' ', CASE WHEN id < 3 THEN 20 ELSE 1 END) AS premise, label, choices
    FROM examples ORDER BY id$$, steps => 1, seed => 1, template => ARRAY['{premise} So what?', 'Say: {premise}', '{id}']);
SELECT examples, metrics ->> 'truncated' AS truncated FROM ia3.adapters WHERE task = 'cut';
-- text beyond the limit has no influence, but the tail has
SELECT a.score = b.score AS beyond, a.score = c.score AS within
  FROM ia3_classify('cut', jsonb_build_object('premise', repeat('the rain fell ', 30), 'id', 1), ARRAY['yes', 'no']) a
  JOIN ia3_classify('cut', jsonb_build_object('premise', repeat('the rain fell ', 30) || 'and snow', 'id', 1), ARRAY['yes', 'no']) b USING (choice)
  JOIN ia3_classify('cut', jsonb_build_object('premise', 'snow ' || repeat('the rain fell ', 30), 'id', 1), ARRAY['yes', 'no']) c USING (choice);
UPDATE ia3.task SET template = ARRAY['{premise} Why not?'] WHERE task = 'cut';
SELECT a.score = b.score AS tail
  FROM ia3_classify('cut', jsonb_build_object('premise', repeat('the rain fell ', 30)), ARRAY['yes', 'no']) a
  JOIN ia3_classify('cut@1', jsonb_build_object('premise', repeat('the rain fell ', 30)), ARRAY['yes', 'no']) b USING (choice);
RESET ia3.max_input_tokens;

SELECT ia3_drop(task) FROM ia3.task;
DROP VIEW examples;
DROP TABLE copa;
