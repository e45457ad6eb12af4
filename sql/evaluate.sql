-- Evaluation: accuracy, macro-F1 and confusion; losses as a line of text and as a picture.
SET client_min_messages = warning;
SET extra_float_digits = 0;

CREATE TABLE eval_shots (id int, text text, label text);
INSERT INTO eval_shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');
CREATE VIEW eval_flipped AS SELECT text, CASE id WHEN 1 THEN 'access' ELSE label END AS label FROM eval_shots;
SELECT ia3_train('eval', 'SELECT text, label FROM eval_shots ORDER BY id', steps => 100, learning_rate => 0.01,
                 seed => 7);

SELECT n, accuracy, macro_f1, mean_score_gap > 0 AS gap, seconds BETWEEN 0 AND 60 AS seconds
  FROM ia3_evaluate('eval', 'SELECT text, label FROM eval_shots');
-- one row has a different label: F1 is 4/5 for billing and 6/7 for access
SELECT n, round(accuracy::numeric, 6) AS accuracy, round(macro_f1::numeric, 6) AS macro_f1,
       round((4 / 5.0 + 6 / 7.0) / 2, 6) AS expected
  FROM ia3_evaluate('eval@1', 'TABLE eval_flipped');
SELECT * FROM ia3_confusion('eval', 'TABLE eval_flipped');

SELECT label, n, predicted, round(precision::numeric, 6) AS precision, round(recall::numeric, 6) AS recall, round(f1::numeric, 6) AS f1
  FROM ia3_class_report('eval', 'TABLE eval_flipped');
-- a label that is only predicted, a choice that does not occur, a label that is never predicted, and one that always is; avg(f1) is
-- macro_f1
CREATE VIEW eval_classes AS
    SELECT text, 'never' AS label, '{never,billing}'::text[] AS choices FROM eval_shots WHERE label = 'billing'
     UNION ALL SELECT text, 'single', '{single}' FROM eval_shots;
SELECT * FROM ia3_class_report('eval', 'TABLE eval_classes');
SELECT abs((SELECT avg(f1) FROM ia3_class_report('eval', 'TABLE eval_classes')) - macro_f1) < 1e-9 AS macro_f1
  FROM ia3_evaluate('eval', 'TABLE eval_classes');

-- the same numbers computed from ia3_classify, over several batches; some rows have choices of their own
CREATE TABLE eval_many AS
    SELECT i, s.text || ' number ' || i AS text, CASE WHEN i % 7 = 0 THEN 'other' ELSE label END AS label,
           CASE WHEN i % 7 = 0 THEN '{billing,other}' WHEN i % 5 = 0 THEN '{access,billing,"no idea"}'
                END::text[] AS choices
      FROM eval_shots s, generate_series(1, 100) i;
CREATE TABLE eval_answers AS
    SELECT m.text, m.label, c.choice, c.score, c.rank
      FROM eval_many m, ia3_classify('eval', m.text, COALESCE(m.choices, '{billing,access}')) c;
SELECT e.n, e.accuracy BETWEEN 0.3 AND 0.999 AS accuracy_plausible
  FROM ia3_evaluate('eval', 'SELECT text, label, choices FROM eval_many ORDER BY i') e;
SELECT (SELECT sum(c.n) FROM ia3_confusion('eval', 'SELECT text, label, choices FROM eval_many') c),
       (SELECT count(*)
          FROM (SELECT label, choice, count(*) AS n FROM eval_answers WHERE rank = 1 GROUP BY 1, 2) a
          FULL JOIN ia3_confusion('eval', 'SELECT text, label, choices FROM eval_many') c
               ON c.label = a.label AND c.predicted = a.choice AND c.n = a.n
         WHERE c.n IS NULL OR a.n IS NULL) AS differences;
WITH cells AS (SELECT * FROM ia3_confusion('eval', 'SELECT text, label, choices FROM eval_many')),
     f1 AS (SELECT l, 2.0 * COALESCE(sum(n) FILTER (WHERE label = l AND predicted = l), 0)
                      / (sum(n) FILTER (WHERE label = l OR predicted = l)
                         + COALESCE(sum(n) FILTER (WHERE label = l AND predicted = l), 0)) AS f1
              FROM cells, (SELECT label FROM cells UNION SELECT predicted FROM cells) x(l) GROUP BY l)
SELECT abs(e.macro_f1 - (SELECT avg(f1) FROM f1)) < 1e-9 AS macro_f1,
       abs(e.accuracy - (SELECT sum(n) FILTER (WHERE label = predicted) / sum(n) FROM cells)) < 1e-9 AS accuracy,
       abs(e.mean_score_gap -
           (SELECT avg(good - best)
              FROM (SELECT max(score) FILTER (WHERE choice = label) AS good,
                           max(score) FILTER (WHERE choice <> label) AS best
                      FROM eval_answers GROUP BY text, label) g)) < 1e-3 AS gap
  FROM ia3_evaluate('eval', 'SELECT text, label, choices FROM eval_many') e;

-- with a single choice there is no gap
SELECT n, accuracy, macro_f1, mean_score_gap
  FROM ia3_evaluate('eval', $$SELECT text, 'only' AS label, '{only}'::text[] AS choices FROM eval_shots$$);

-- evaluation only reads, so it works in a read-only transaction and stores nothing
BEGIN READ ONLY;
SELECT n FROM ia3_evaluate('eval', 'SELECT text, label FROM eval_shots');
SELECT count(*) FROM pg_locks WHERE relation = 'eval_shots'::regclass;
COMMIT;
SELECT ia3_evaluate(NULL, 'SELECT 1') IS NULL AS task, ia3_evaluate('eval', NULL) IS NULL AS query,
       (SELECT count(*) FROM ia3_class_report(NULL, 'SELECT 1')) AS report, (SELECT count(*) FROM ia3_class_report('eval', NULL)) AS no_query;

-- errors name the row
SELECT ia3_evaluate('eval', 'SELECT text, label FROM eval_shots WHERE false');
SELECT ia3_class_report('eval', 'SELECT text, label FROM eval_shots WHERE false');
SELECT ia3_class_report('eval', $$SELECT text, CASE id WHEN 4 THEN 'unknown' ELSE label END AS label FROM eval_shots ORDER BY id$$);
SELECT ia3_class_report('eval', 'SELECT id, text, label AS labels FROM eval_shots');
SELECT ia3_class_report('eval@9', 'SELECT text, label FROM eval_shots');
SELECT ia3_confusion('eval', $$SELECT 'x', CASE WHEN i = 300 THEN 'zzz' ELSE 'access' END FROM generate_series(1, 400) i$$);
SELECT ia3_evaluate('eval', $$SELECT 'x', CASE WHEN i < 600 THEN 'access' END FROM generate_series(1, 700) i$$);
SELECT ia3_evaluate('eval', $$SELECT 'x' AS text, 'b' AS label, '{a,a}'::text[] AS choices$$);
SELECT ia3_evaluate('eval', 'SELECT label FROM eval_shots');
SELECT ia3_evaluate('eval', 'DELETE FROM eval_shots RETURNING text, label');
SELECT ia3_evaluate('eval', 'SELECT 1; SELECT 2');
SELECT ia3_evaluate('nobody', 'SELECT text, label FROM eval_shots');
SELECT ia3_evaluate('eval@9', 'SELECT text, label FROM eval_shots');
SELECT ia3_train('eval_tail', 'SELECT text, label FROM eval_shots', steps => 1,
                 template => ARRAY['{text}. ' || repeat('What is this about? ', 5)]);
SET ia3.max_input_tokens = 16;
SELECT ia3_evaluate('eval_tail', 'SELECT text, label FROM eval_shots ORDER BY id');
RESET ia3.max_input_tokens;

-- sparklines
SELECT v, ia3_sparkline(v::jsonb) FROM (VALUES ('[1,2,3,4,5,6,7,8]'), ('[3]'), ('[2,2,2]'), ('[8,null,1]'), ('[null]'),
    ('[-1e308,0,1e308]'), ('[1e400,2,1]'), ('["a",5,[1],1]'), ('[]'), ('{"a":1}'), ('7'), ('null')) x(v);
SELECT length(ia3_sparkline(jsonb_agg(i))) AS length, ia3_sparkline(jsonb_agg(i)) AS line FROM generate_series(1, 400) i;
SELECT length(loss_curve) AS length, left(loss_curve, 1) AS first, right(loss_curve, 1) AS last
  FROM ia3.adapters WHERE task = 'eval';

-- pictures are XML, whatever the names
CREATE FUNCTION eval_count(svg text, path text) RETURNS bigint LANGUAGE sql AS
    $$SELECT cardinality(xpath(path, svg::xml, '{{s,http://www.w3.org/2000/svg}}'))$$;
SELECT xml_is_well_formed_document(svg) AS xml, eval_count(svg, '//s:path') AS curves, eval_count(svg, '//s:rect[@fill-opacity]') AS cells,
       eval_count(svg, '//s:text[.="step"]') AS x, eval_count(svg, '//s:text[.="loss"]') AS y, eval_count(svg, '//s:text[.="100"]') > 0 AS steps
  FROM (VALUES (ia3_plot('eval')), (ia3_plot('eval', 1)), (ia3_plot('eval@1', 'TABLE eval_flipped'))) p(svg);
SELECT array_agg(c::text) FROM unnest(xpath('//s:text[@fill="#ffffff" or @font-size="13"]/text()',
       ia3_plot('eval', 'TABLE eval_flipped')::xml, '{{s,http://www.w3.org/2000/svg}}')) c;
SELECT ia3_train('<a & "b">', $$SELECT text, '<' || label || ' & ''q''' || chr(1) || chr(65535) AS label FROM eval_shots$$, steps => 2);
SELECT xml_is_well_formed_document(svg) AS xml, eval_count(svg, '//s:text[.=concat("<a & ", ''"b"'', ">@1")]') AS title,
       eval_count(svg, '//s:text[starts-with(., "<access & ")]') AS labels
  FROM ia3_plot('<a & "b">', $$SELECT text, '<' || label || ' & ''q''' || chr(1) || chr(65535) AS label FROM eval_shots$$) p(svg);
-- of very many labels the rarest share a row
SELECT xml_is_well_formed_document(svg) AS xml, eval_count(svg, '//s:rect[@fill-opacity]') AS cells, eval_count(svg, '//s:text[contains(., "others)")]') AS others
  FROM ia3_plot('eval', $$SELECT 'x' || i AS text, 'label ' || i AS label, ARRAY['label ' || i, 'no'] AS choices FROM generate_series(1, 60) i$$) p(svg);
SELECT ia3_plot('nobody');
SELECT ia3_plot('eval', 9);
SELECT ia3_plot('eval@1', 1);
SELECT ia3_plot(NULL) IS NULL AS null_task, ia3_plot('eval', NULL::int) IS NULL AS null_version;

-- a task that the role may not see does not exist for it
CREATE ROLE regress_ia3_evaluator;
GRANT SELECT ON eval_shots TO regress_ia3_evaluator;
SET ROLE regress_ia3_evaluator;
SELECT ia3_evaluate('eval', 'SELECT text, label FROM eval_shots');
SELECT ia3_class_report('eval', 'SELECT text, label FROM eval_shots');
SELECT ia3_plot('eval');
SELECT ia3_generate('eval', 'x');
RESET ROLE;
DROP OWNED BY regress_ia3_evaluator;
DROP ROLE regress_ia3_evaluator;

SELECT ia3_drop(task) FROM ia3.task WHERE task IN ('eval', 'eval_tail', '<a & "b">');
DROP FUNCTION eval_count;
DROP TABLE eval_shots, eval_many, eval_answers CASCADE;
