-- Verbalizers and descriptions: what the model reads is not what the table stores.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;
CREATE TABLE word_shots (id int, text text, label text, word text);
INSERT INTO word_shots VALUES
    (1, 'I was charged twice this month', 'L1', 'billing'), (2, 'cannot log in any more', 'L2', 'access'),
    (3, 'the invoice shows a wrong amount', 'L1', 'billing'), (4, 'please reset my password', 'L2', 'access'),
    (5, 'when do I get my refund', 'L1', 'billing'), (6, 'my account is locked', 'L2', 'access'),
    (7, 'the app closes when I open it', '3', '3'), (8, 'the page stays blank', '3', '3');
CREATE VIEW word_rows AS SELECT text, label FROM word_shots ORDER BY id;

-- one verbalizer for a label: the version is the one that the words themselves as labels give, bit for bit
SELECT ia3_train('plain', 'SELECT text, word FROM word_shots ORDER BY id', steps => 12, seed => 7);
SELECT ia3_train('worded', 'TABLE word_rows', steps => 12, seed => 7, verbalizers => '{"L1": "billing", "L2": ["access"]}');
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task IN ('plain', 'worded');
SELECT choices, verbalizers, descriptions FROM ia3.task WHERE task IN ('plain', 'worded') ORDER BY task;
-- results have the same scores, and name the labels
SELECT bool_and(p.score = w.score AND p.probability = w.probability AND p.rank = w.rank) AS same,
       bool_and((p.choice, w.choice) IN (('billing', 'L1'), ('access', 'L2'), ('3', '3'))) AS labels
  FROM word_shots s, ia3_classify('plain', s.text) p JOIN LATERAL ia3_classify('worded', s.text) w USING (rank);
SELECT count(*) AS n, bool_and(ia3_predict('worded', text) = (SELECT label FROM word_shots x WHERE x.word = ia3_predict('plain', s.text) LIMIT 1)) AS same
  FROM word_shots s;
SELECT e.n, e.accuracy = f.accuracy AS same, e.macro_f1 = f.macro_f1 AS same_f1
  FROM ia3_evaluate('worded', 'TABLE word_rows') e, ia3_evaluate('plain', 'SELECT text, word FROM word_shots ORDER BY id') f;
-- choices of a call are worded, too
SELECT choice, score = (SELECT score FROM ia3_classify('plain', 'no refund', '{access,billing}') p WHERE p.rank = w.rank) AS same
  FROM ia3_classify('worded', 'no refund', '{L2,L1}') w ORDER BY choice;
-- folds and calibration
SELECT count(*), bool_and(a.probability = b.probability AND a.fold = b.fold) AS same, string_agg(DISTINCT a.label, ' ' ORDER BY a.label) AS labels
  FROM ia3_cross_predict('TABLE word_rows', folds => 2, steps => 6, seed => 7, verbalizers => '{"L1": "billing", "L2": "access"}') a
  JOIN ia3_cross_predict('SELECT text, word FROM word_shots ORDER BY id', folds => 2, steps => 6, seed => 7) b USING (row_number);
SELECT ia3_calibrate('worded', 'TABLE word_rows'), ia3_calibrate('plain', 'SELECT text, word FROM word_shots ORDER BY id');
SELECT count(DISTINCT temperature), bool_and(recipe ? 'verbalizers' = (task = 'worded')) FROM ia3.adapter WHERE temperature IS NOT NULL;

-- a calibration records what the task says now
UPDATE ia3.task SET verbalizers = NULL WHERE task = 'worded';
SELECT ia3_calibrate('worded', 'TABLE word_rows');
SELECT recipe ? 'verbalizers' AS recorded FROM ia3.adapter WHERE task = 'worded' AND version = 3;
SELECT ia3_activate('worded', 1);

-- several verbalizers: a label's score is the mean of theirs
CREATE VIEW word_scores AS
    SELECT s.id, c.choice, c.score FROM word_shots s,
           ia3_classify_zero_shot(s.text, '{L1,L2,3}', verbalizers => '{"L1": ["billing", "a question of money"], "L2": ["access", "password", "login"]}') c;
SELECT count(*), bool_and(abs(w.score - (SELECT avg(f.score) FROM ia3_classify_zero_shot(s.text, '{billing,a question of money,access,password,login,3}') f
                                          WHERE f.choice = ANY (CASE w.choice WHEN 'L1' THEN '{billing,a question of money}'::text[]
                                                                              WHEN 'L2' THEN '{access,password,login}' ELSE '{3}' END))) < 1e-6) AS means
  FROM word_shots s JOIN word_scores w USING (id);
SELECT ia3_train('several', 'TABLE word_rows', steps => 12, seed => 7,
                 verbalizers => '{"L1": ["billing", "a question of money"], "L2": ["access", "password", "login"]}');
SELECT ia3_train('several', 'TABLE word_rows', steps => 12, seed => 7,
                 verbalizers => '{"L1": ["billing", "a question of money"], "L2": ["access", "password", "login"]}');
-- the draws are those of the seed, and the version is another than with the first verbalizers
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task = 'several';
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task IN ('several', 'worded') AND temperature IS NULL;
-- one by one, ahead, in a window, and with a threshold: the same answers
CREATE TEMP TABLE word_answers AS SELECT id, ia3_predict('several', text) AS several, ia3_zero_shot(text, '{L1,L2}', NULL, '{"L1": ["billing", "money"]}') AS zero_shot,
                                         ia3_zero_shot(text, '{L1,L2}', '{"L1": "billing"}') AS described FROM word_shots;
SELECT bool_and(w) FROM (SELECT several = ia3_predict_window('several', text) OVER () AS w FROM word_shots JOIN word_answers USING (id)) x;
SET ia3.enable_batching = off;
SELECT bool_and(several = ia3_predict('several', text)), bool_and(zero_shot = ia3_zero_shot(text, '{L1,L2}', NULL, '{"L1": ["billing", "money"]}')),
       bool_and(described = ia3_zero_shot(text, '{L1,L2}', '{"L1": "billing"}')) FROM word_shots JOIN word_answers USING (id);
RESET ia3.enable_batching;
EXPLAIN (COSTS OFF) SELECT ia3_zero_shot(text, '{L1,L2}', verbalizers => '{"L1": ["billing", "money"]}') FROM word_shots;
-- rows of tasks with and without verbalizers in one statement
SELECT bool_and(c.score = (SELECT score FROM ia3_classify(t.task, s.text) x WHERE x.choice = c.choice)) AS same, count(*)
  FROM word_shots s CROSS JOIN (VALUES ('plain'), ('worded'), ('several')) t(task), ia3_classify(t.task, s.text) c;

-- {choices} and {descriptions} in a template
SELECT ia3_train('listed', 'TABLE word_rows', steps => 4, seed => 7, template => '{"{text} [{descriptions}] {choices}?"}',
                 verbalizers => '{"L1": ["billing", "money"], "L2": "access"}', descriptions => '{"L1": "about {money}", "3": "anything else"}');
SELECT ia3_train('written', 'TABLE word_rows', steps => 4, seed => 7,
                 template => '{"{text} [billing: about {{money}}; access; 3: anything else] billing, access, 3?"}',
                 verbalizers => '{"L1": ["billing", "money"], "L2": "access"}');
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task IN ('listed', 'written');
SELECT bool_and(l.score = w.score) FROM word_shots s, ia3_classify('listed', s.text) l JOIN LATERAL ia3_classify('written', s.text) w USING (choice);
-- without a task, descriptions are a line after the text
SELECT bool_and(d.score = w.score) AS same FROM word_shots s, ia3_classify_zero_shot(s.text, '{L1,L2}', descriptions => '{"L1": "bills"}') d
  JOIN LATERAL ia3_classify_zero_shot(s.text || E'\nL1: bills; L2', '{L1,L2}') w USING (choice);
SELECT ia3_zero_shot(NULL, '{a,b}', '{"a": "b"}') IS NULL, ia3_zero_shot('a', NULL) IS NULL, ia3_zero_shot('text', '{a,b}', '{}', NULL) = ia3_zero_shot('text', '{a,b}') AS same,
       (SELECT count(*) FROM ia3_classify_zero_shot(NULL, '{a,b}')) AS no_rows;

-- the owner may change the wording; versions keep theirs
UPDATE ia3.task SET verbalizers = '{"L1": "access", "L2": "billing"}' WHERE task = 'worded';
SELECT count(*), bool_and(now.choice <> pinned.choice) AS swapped
  FROM ia3_classify('worded', 'no refund', '{L1,L2}') now JOIN ia3_classify('worded@1', 'no refund', '{L1,L2}') pinned USING (rank);
SELECT ia3_activate('worded', 1);
SELECT verbalizers FROM ia3.task WHERE task = 'worded';
SELECT ia3_activate('plain', 1);
SELECT verbalizers FROM ia3.task WHERE task = 'plain';
SELECT ia3_train('worded', 'TABLE word_rows', steps => 2, seed => 7);
SELECT verbalizers, (SELECT recipe ? 'verbalizers' FROM ia3.adapter a WHERE a.task = 'worded' AND a.version = t.active_version) FROM ia3.task t WHERE task = 'worded';
-- copies, averages, exports
SELECT ia3_copy('listed', 'listed_copy'), ia3_rename('listed_copy', 'listed_renamed');
SELECT ia3_import_task(ia3_export_task('listed'), 'listed_imported');
SET client_min_messages = notice;
SELECT length(ia3_export('listed')) > 0 AS exported;
SELECT length(ia3_export('plain@1')) > 0 AS exported;
SET client_min_messages = warning;
-- an imported adapter is read as the task's active version is
SELECT ia3_import('listed', ia3_export('listed'));
SELECT verbalizers IS NOT NULL AND descriptions IS NOT NULL AS kept FROM ia3.task WHERE task = 'listed';
SELECT ia3_average('listed_mean', ARRAY['listed@1', 'listed@2']);
SELECT task, verbalizers, descriptions FROM ia3.task WHERE task LIKE 'listed_%' ORDER BY task;
SELECT count(DISTINCT ROUND(c.score::numeric, 6)) FROM (VALUES ('listed'), ('listed_renamed'), ('listed_imported'), ('listed_mean@1')) t(task), ia3_classify(t.task, 'no refund') c WHERE c.rank = 1;

-- mistakes
\set VERBOSITY default
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '["L1"]');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '3');
SELECT ia3_train('bad', 'TABLE word_rows', descriptions => '"L1"');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": 1}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": null}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": ""}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": []}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": ["a", ["b"]]}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": {"a": "b"}}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L4": "billing"}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": "billing", "L2": "billing"}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": ["billing", "billing"]}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": "3"}');
SELECT ia3_train('bad', 'TABLE word_rows', verbalizers => '{"L1": "billing", "L2": "billing "}');
SELECT ia3_train('bad', 'TABLE word_rows', descriptions => '{"L1": "billing"}');
SELECT ia3_train('bad', 'TABLE word_rows', template => '{"{text} {descriptions}"}');
SELECT ia3_train('bad', 'TABLE word_rows', template => '{"{text} {descriptions}"}', descriptions => '{"L4": "billing"}');
SELECT ia3_train('bad', 'TABLE word_rows', template => '{"{text} {descriptions}"}', descriptions => '{"L1": ["billing"]}');
SELECT ia3_train('bad', 'TABLE word_rows', template => '{"{text} {descriptions}"}', descriptions => '{"L1": "billing"}', truncate => 'end', steps => 2) AS fields_are_shortened;
SELECT ia3_train('bad', 'TABLE word_rows', template => '{"{text} {descriptions}"}', descriptions => jsonb_build_object('L1', repeat('too long ', 300)));
SELECT ia3_train('bad', 'SELECT text, label, ''{L1,L2,3}''::text[] AS choices FROM word_shots', verbalizers => '{"L4": "billing"}');
SELECT * FROM ia3_cross_validate('TABLE word_rows', folds => 2, steps => 2, verbalizers => '{"L4": "billing"}');
SELECT ia3_zero_shot('text', '{a,b}', verbalizers => '{"c": "x"}');
SELECT ia3_zero_shot('text', '{a,b}', descriptions => '{"c": "x"}');
SELECT ia3_zero_shot('text', '{a,b}', descriptions => '[]');
SELECT ia3_zero_shot('text', '{a,b}', verbalizers => '{"a": "b"}');
SELECT ia3_zero_shot('text', '{a,b}', descriptions => jsonb_build_object('a', repeat('too long ', 300)));
SELECT count(*) FROM word_shots WHERE ia3_zero_shot(text, '{a,b}', verbalizers => '{"c": "x"}') = 'a';
\set VERBOSITY terse
UPDATE ia3.task SET verbalizers = '[]' WHERE task = 'worded';
UPDATE ia3.task SET descriptions = '"x"' WHERE task = 'worded';
\set VERBOSITY default
SELECT ia3_train('bad', 'TABLE word_rows', template => '{"{text} {{descriptions}}"}', descriptions => '{"L1": "billing"}');
UPDATE ia3.task SET choices = array_fill('a'::text, '{70000}'), verbalizers = jsonb_build_object('a', (SELECT jsonb_agg('v' || i) FROM generate_series(1, 40000) i)) WHERE task = 'worded';
SELECT ia3_predict('worded', 'no refund');
UPDATE ia3.task SET choices = '{a,b}' WHERE task = 'worded';
SELECT ia3_predict('worded', 'no refund');
-- the task's own choices do not matter to a call that brings others, nor do names that are no choices
SELECT ia3_predict('worded', 'no refund', '{L1,L2}') IN ('L1', 'L2') AS answered;
UPDATE ia3.task SET choices = '{L1,L2,3}', verbalizers = '{"L9": "x"}' WHERE task = 'worded';
SELECT ia3_predict('worded', 'no refund') IN ('L1', 'L2', '3') AS answered;
SELECT n FROM ia3_evaluate('worded', 'TABLE word_rows');
UPDATE ia3.task SET verbalizers = '{"L1": "3"}' WHERE task = 'worded';
SELECT ia3_predict('worded', 'no refund');
UPDATE ia3.task SET verbalizers = '{"L1": 1}' WHERE task = 'worded';
SELECT ia3_predict('worded', 'no refund');
-- rows that are not read do not matter, although they are predicted ahead
SELECT ia3_predict(t, 'no refund') IS NOT NULL AS answered FROM (VALUES ('plain'), ('plain'), ('worded')) v(t) LIMIT 2;
SELECT count(*) FROM ia3.adapters WHERE task = 'worded';
SELECT ia3_import_task(jsonb_set(ia3_export_task('plain'), '{verbalizers}', '{"billing": 1}'), 'bad');
SELECT ia3_import_task(jsonb_set(ia3_export_task('plain'), '{descriptions}', '[1]'), 'bad');
SELECT ia3_import_task(jsonb_set(ia3_export_task('several'), '{versions,0,recipe,verbalizers}', 'null'), 'nulled');
SELECT ia3_predict('nulled@1', 'no refund') IN ('L1', 'L2', '3') AS answered;
SELECT count(*) FROM ia3.adapter WHERE task = 'bad';
-- a role that may only read changes nothing
CREATE ROLE word_reader;
SELECT ia3_grant('plain', 'word_reader');
SET ROLE word_reader;
UPDATE ia3.task SET verbalizers = '{"billing": "x"}' WHERE task = 'plain';
RESET ROLE;
SELECT verbalizers FROM ia3.task WHERE task = 'plain';
SELECT ia3_drop(task) FROM ia3.task;
DROP VIEW word_rows, word_scores;
DROP TABLE word_shots;
DROP ROLE word_reader;
