-- Two versions on the same rows: ia3_compare, and which rows a version has seen.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;
SET extra_float_digits = 0;

-- "first" reads its answer from the column a, "second" from b, so a query decides which of them is right
CREATE TABLE compare_shots (a text, label text);
INSERT INTO compare_shots VALUES ('yes', 'yes'), ('no', 'no');
SELECT ia3_train('first', 'TABLE compare_shots', template => '{"{a}"}', steps => 60, learning_rate => 0.01, seed => 1);
SELECT ia3_copy('first', 'second');
UPDATE ia3.task SET template = '{"{b}"}' WHERE task = 'second';

-- a query with as many rows that both, only the first, only the second, and none predict right
CREATE FUNCTION compare_query(bigint, bigint, bigint, bigint) RETURNS text LANGUAGE sql AS $$
    SELECT format('SELECT CASE WHEN i <= %1$s + %2$s THEN ''yes'' ELSE ''no'' END AS a,'
                  ' CASE WHEN i <= %1$s OR (i > %1$s + %2$s AND i <= %1$s + %2$s + %3$s) THEN ''yes'' ELSE ''no'' END AS b,'
                  ' ''yes'' AS label FROM generate_series(1, %1$s + %2$s + %3$s + %4$s) i', $1, $2, $3, $4)
$$;
-- Newcombe (1998), table II; Altman et al., Statistics with confidence (2000), table 6.2; Bentur et al. (2009) in Fagerland
-- et al., Recommended tests and confidence intervals for paired binomial proportions (2014): here the difference is that of
-- the second minus the first. p is that of scipy.stats.binomtest
SELECT e, f, g, h, n, round(accuracy_a::numeric, 4) AS accuracy_a, round(accuracy_b::numeric, 4) AS accuracy_b,
       round(difference::numeric, 4) AS difference, round(difference_low::numeric, 4) AS low,
       round(difference_high::numeric, 4) AS high, round(p_value::numeric, 9) AS p, cardinality(differing) AS differing
  FROM (VALUES (36, 12, 2, 0), (14, 5, 0, 22), (1, 1, 7, 12), (59, 6, 16, 80), (50, 0, 0, 0), (0, 0, 0, 3), (0, 1, 0, 0),
               (0, 5, 5, 0), (200, 40, 90, 300)) v(e, f, g, h), ia3_compare('first', 'second', compare_query(e, f, g, h));
SELECT n, accuracy_a, accuracy_b, difference, difference_low < difference AND difference < difference_high AS interval, p_value, differing
  FROM ia3_compare('first', 'second', compare_query(1, 2, 1, 1));
-- several batches of rows
SELECT n, accuracy_a, accuracy_b, difference, cardinality(differing), differing[1], differing[200]
  FROM ia3_compare('first', 'second', compare_query(300, 150, 50, 500));
-- the same accuracies as of ia3_evaluate, whichever comes first
SELECT c.accuracy_a = a.accuracy AS a, c.accuracy_b = b.accuracy AS b, d.difference = - c.difference AS difference,
       d.difference_low = - c.difference_high AS interval, d.p_value = c.p_value AS p, d.differing = c.differing AS rows
  FROM compare_query(7, 3, 1, 5) q, ia3_compare('first', 'second', q) c, ia3_compare('second', 'first', q) d,
       ia3_evaluate('first', q) a, ia3_evaluate('second', q) b;
-- a version and itself
SELECT difference, p_value, differing FROM ia3_compare('first@1', 'first@1', compare_query(2, 1, 0, 1));

-- rows that differ are those whose predictions do, also where none is right
SELECT accuracy_a, accuracy_b, p_value, differing
  FROM ia3_compare('first', 'second', $$SELECT a, b, 'maybe' AS label, '{yes,no,maybe}'::text[] AS choices
                                          FROM (VALUES ('yes', 'no'), ('no', 'no'), ('no', 'yes')) v(a, b)$$);

-- it says what is compared unless the arguments do, and how many rows a version has seen, whatever their labels
INSERT INTO compare_shots VALUES ('maybe', 'maybe'), ('perhaps', 'maybe');
SELECT ia3_train('first', 'TABLE compare_shots', template => '{"{a}","Is this {a}?"}', steps => 60, learning_rate => 0.01, seed => 1);
SET client_min_messages = notice;
CREATE TABLE compare_rows AS SELECT a, 'no' AS label FROM (VALUES ('yes'), ('no'), ('maybe'), ('never'), ('at no time')) v(a);
SELECT n FROM ia3_compare('first@1', 'first@2', 'SELECT a, label FROM compare_rows');
SELECT n FROM ia3_compare('first@1', 'first', 'SELECT a, label FROM compare_rows WHERE a ~ ''e$''');
SELECT n FROM ia3_compare('first@1', 'first@1', 'SELECT a, label FROM compare_rows WHERE a = ''never''');
-- the name of the field does not matter, nor does its type
UPDATE ia3.task SET template = '{"{text}"}' WHERE task = 'second';
SELECT n FROM ia3_compare('second', 'second', 'SELECT a::char(3) AS text, label FROM compare_rows WHERE a = ''yes''');
-- copies, renamed, exported and imported versions know the rows; an average does not
SET client_min_messages = warning;
SELECT ia3_rename('second', 'third');
SELECT ia3_import_task(ia3_export_task('third'), 'fourth');
SELECT ia3_average('fifth', '{first@1,third@1}');
SET client_min_messages = notice;
SELECT n FROM ia3_compare('fourth@1', 'fifth@1', 'SELECT a, label FROM compare_rows');
-- so does pre-training, by the templates of its tasks
SET client_min_messages = warning;
CALL ia3_pretrain('base', $$SELECT 'one' AS task, 'x' AS b, a, label FROM compare_shots WHERE a <> 'no'
        UNION ALL SELECT 'two', a, 'y', label FROM compare_shots WHERE a = 'no'$$,
    templates => '{"one": ["{a}?", "{b} {a}"], "two": "{b}"}', steps => 2, batch_size => 2);
UPDATE ia3.task SET choices = '{yes,no}', template = '{"{text}"}' WHERE task = 'base';
SET client_min_messages = notice;
SELECT n FROM ia3_compare('base', 'base', 'SELECT a AS text, label FROM compare_rows');

-- nobody else can find out which rows a version has seen
CREATE ROLE regress_ia3_reader;
GRANT SELECT ON compare_rows TO regress_ia3_reader;
SELECT ia3_grant('first', 'regress_ia3_reader');
SET ROLE regress_ia3_reader;
SELECT n FROM ia3_compare('first@1', 'first@2', 'SELECT a, label FROM compare_rows');
SELECT count(*) FROM ia3.adapter_query;
SELECT ia3_compare('first@1', 'third@1', 'SELECT a, label FROM compare_rows');
RESET ROLE;
DROP OWNED BY regress_ia3_reader;
DROP ROLE regress_ia3_reader;
-- nor does it keep a lock
BEGIN READ ONLY;
SELECT n FROM ia3_compare('first@1', 'first@1', 'SELECT a, label FROM compare_rows WHERE a = ''never''');
SELECT count(*) FROM pg_locks WHERE relation IN ('compare_rows'::regclass, 'ia3.adapter_query'::regclass);
COMMIT;

-- errors
SET client_min_messages = warning;
SELECT ia3_compare(NULL, 'first', 'TABLE compare_rows') IS NULL, ia3_compare('first', NULL, 'TABLE compare_rows') IS NULL,
       ia3_compare('first', 'first', NULL) IS NULL;
SELECT ia3_compare('first@1', 'first@2', 'SELECT a, label FROM compare_rows WHERE false');
SELECT ia3_compare('first@1', 'first@2', $$SELECT a, 'maybe' AS label FROM compare_rows$$);
SELECT ia3_compare('first@1', 'first@2', 'SELECT label FROM compare_rows');
SELECT ia3_compare('first', 'third', 'SELECT a, label, 1 AS x FROM compare_rows');
SELECT ia3_compare('first@1', 'first@7', 'TABLE compare_rows');
SELECT ia3_compare('first@1', 'nobody', 'TABLE compare_rows');
SELECT ia3_compare('first@1', 'first@2', 'DELETE FROM compare_rows RETURNING a, label');
SELECT ia3_compare('first@1', 'first@2', $$SELECT a, label, '{}'::text[] AS choices FROM compare_rows$$);
-- a version of another backbone, and one that reads values in another way
SELECT ia3_import_task(jsonb_set(ia3_export_task('first'), '{versions,0,backbone_digest}', to_jsonb(repeat('0', 64))), 'foreign');
SELECT ia3_compare('first@1', 'foreign@1', 'TABLE compare_rows');
SELECT ia3_import_task(ia3_export_task('first') #- '{versions,0,recipe,rendering}', 'older');
SELECT ia3_compare('first@1', 'older@1', 'TABLE compare_rows');
-- hashes that are none
SELECT ia3_import_task(jsonb_set(ia3_export_task('first'), '{versions,0,row_hashes}', '"AAAA"'), 'bad');

SELECT ia3_drop(task) FROM ia3.task;
DROP FUNCTION compare_query;
DROP TABLE compare_shots, compare_rows;
