-- A row reads the same in training and in prediction, whatever the types of its columns; labels are what a cast to text
-- makes of them.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;
SET TimeZone = 'Europe/Vienna';
SET extra_float_digits = 1;

-- one sample or more of each type that a column can have
CREATE TABLE samples (type regtype, value text);
INSERT INTO samples VALUES
    ('boolean', 't'), ('boolean', 'f'), ('"char"', 'x'), ('name', 'a name'), ('text', 'some "text" {here}'), ('text', ''),
    ('varchar', 'varying'), ('bpchar', 'blank  '), ('character(7)', 'pad'), ('bytea', '\x00ff'),
    ('int2', '-7'), ('int4', '42'), ('int8', '9007199254740993'), ('oid', '4294967295'),
    ('float4', '0.1'), ('float4', '1e20'), ('float8', '1e300'), ('float8', '0.1'), ('float8', 'NaN'), ('float8', '-Infinity'),
    ('numeric', '1.50'), ('numeric', '12345678901234567890.5'), ('numeric', 'NaN'), ('money', '12.5'),
    ('date', '2024-02-29'), ('date', 'infinity'), ('time', '12:34:56.7'), ('timetz', '12:34:56+02'),
    ('timestamp', '2024-02-29 12:00:00'), ('timestamptz', '2024-07-01 12:00:00+00'), ('interval', '1 year 2 days 03:00'),
    ('json', '{"b": [1, 2],  "a": null}'), ('json', '"a string"'), ('jsonb', '{"b": [1, 2], "a": {"c": true}}'),
    ('jsonb', '"a string"'), ('jsonb', '12.50'), ('jsonb', 'null'), ('jsonb', '[]'), ('jsonpath', '$.a[*]'), ('xml', '<a>1</a>'),
    ('uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), ('inet', '192.168.0.1/24'), ('cidr', '10.0.0.0/8'),
    ('macaddr', '08:00:2b:01:02:03'), ('macaddr8', '08:00:2b:01:02:03:04:05'), ('bit(3)', '101'), ('varbit', '10'),
    ('point', '(1,2)'), ('line', '{1,2,3}'), ('lseg', '[(0,0),(1,1)]'), ('box', '(1,1),(0,0)'), ('path', '((0,0),(1,1))'),
    ('polygon', '((0,0),(1,1),(1,0))'), ('circle', '<(0,0),1>'), ('tsvector', 'a b:3'), ('tsquery', 'a & b'),
    ('int4range', '[1,5)'), ('numrange', '(,1.5]'), ('tsrange', '[2024-01-01,2024-02-01)'),
    ('tstzrange', '[2024-01-01,2024-02-01)'), ('daterange', 'empty'), ('int8range', '[1,2)'),
    ('regclass', 'pg_class'), ('regtype', 'integer'), ('regproc', 'pg_catalog.now'), ('regprocedure', 'lower(text)'),
    ('regoper', 'pg_catalog.||/'), ('regoperator', '+(integer,integer)'), ('regrole', '0'), ('regnamespace', 'pg_catalog'),
    ('regconfig', 'english'), ('regdictionary', 'simple'), ('regcollation', '"C"'),
    ('tid', '(0,1)'), ('xid', '7'), ('xid8', '7'), ('cid', '7'), ('pg_lsn', '0/16B3748'), ('refcursor', 'c'),
    ('txid_snapshot', '10:20:10,14'), ('pg_snapshot', '10:20:10,14'), ('int2vector', '1 2'), ('oidvector', '1 2'),
    ('int4[]', '{0,7}'), ('int4[]', '{{1,2},{3,4}}'), ('text[]', '{a,"b c",NULL}'), ('boolean[]', '{t,f}'),
    ('timestamptz[]', '{2024-07-01 12:00+00}');
CREATE TYPE sample_row AS (a int, b text);
CREATE TYPE sample_enum AS ENUM ('low', 'high');
CREATE DOMAIN sample_domain AS numeric(6, 2) CHECK (VALUE > 0);
INSERT INTO samples VALUES ('sample_row', '(1,"x y")'), ('sample_enum', 'high'), ('sample_domain', '2.5');

-- no built-in type of a column is missing (multiranges came with 14)
SELECT t.typname
  FROM pg_type t
 WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r') AND t.typelem = 0
   AND t.typname NOT IN ('pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary',
                         'pg_brin_minmax_multi_summary', 'gtsvector', 'aclitem', 'unknown')
   AND t.oid NOT IN (SELECT type FROM samples)
 ORDER BY 1;

SELECT ia3_train('rows', $$SELECT v, label FROM (VALUES ('first', 'yes'), ('second', 'no')) t (v, label)$$,
                 template => ARRAY['{v}'], choices => ARRAY['yes', 'no'], steps => 1, seed => 1);

-- Evaluation reads a row as training does. Its gap between the scores has to be that of the same row as fields.
CREATE FUNCTION gap_in_training(type regtype, value text) RETURNS float8 LANGUAGE sql AS $$
    SELECT mean_score_gap FROM ia3_evaluate('rows', format('SELECT %L::%s AS v, %L AS label', value, type, 'yes'))
$$;
CREATE FUNCTION gap_in_prediction(type regtype, value text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    fields jsonb;
BEGIN
    EXECUTE format('SELECT to_jsonb(r) FROM (SELECT %L::%s AS v) r', value, type) INTO fields;
    RETURN (SELECT sum(CASE choice WHEN 'yes' THEN score ELSE -score END) FROM ia3_classify('rows', fields));
END
$$;
SELECT type, value FROM samples WHERE NOT abs(gap_in_training(type, value) - gap_in_prediction(type, value)) < 1e-9;
SELECT count(*) > 90 AS all_compared FROM samples WHERE gap_in_training(type, value) IS NOT NULL;
-- and different texts do have different gaps
SELECT count(DISTINCT round(gap_in_training(type, value)::numeric, 9)) > 80 AS distinguishes FROM samples;

-- arrays and objects are fields, too
SELECT ia3_render('{v}', '{"v": [0, 7]}'), ia3_render('{v}', '{"v": {"a": [true, null]}}'), ia3_render('{v}', '{"v": null}');

-- what the example of a boolean came to before: true in one place, t in the other
CREATE TABLE paid AS
    SELECT (i % 2 = 0) AS paid, 'order' AS text, CASE WHEN i % 2 = 0 THEN 'ship' ELSE 'wait' END AS label
      FROM generate_series(1, 16) i;
SELECT ia3_train('paid', 'SELECT * FROM paid', template => ARRAY['paid: {paid} {text}'], steps => 300, seed => 1);
SELECT accuracy FROM ia3_evaluate('paid', 'SELECT * FROM paid');
SELECT count(*) FILTER (WHERE ia3_predict('paid', to_jsonb(b)) = label) FROM paid b;

-- labels: a cast to text, not the type's output
CREATE TABLE labelled (body text, flag boolean, kind char(8), grade int);
INSERT INTO labelled VALUES ('good', true, 'fine', 1), ('bad', false, 'poor', 2), ('nice', true, 'fine', 1), ('awful', false, 'poor', 2);
SELECT ia3_train('flag', 'SELECT body AS text, flag AS label FROM labelled', steps => 1, seed => 1);
SELECT ia3_train('kind', 'SELECT body AS text, kind AS label FROM labelled', steps => 1, seed => 1);
SELECT ia3_train('grade', 'SELECT body AS text, grade AS label FROM labelled', steps => 1, seed => 1);
SELECT task, choices FROM ia3.task WHERE task IN ('flag', 'kind', 'grade') ORDER BY task;
SELECT n FROM ia3_evaluate('kind', 'SELECT body AS text, kind AS label FROM labelled');
SELECT bool_and(ia3_predict('flag', body) IN ('true', 'false')) FROM labelled;
SELECT bool_and(ia3_predict('kind', body) IN ('fine', 'poor')) FROM labelled;
SELECT ia3_train('own', 'SELECT body AS text, flag AS label, ARRAY[true, false] AS choices FROM labelled', steps => 1, seed => 1);
SELECT accuracy IS NOT NULL AS evaluated FROM ia3_evaluate('own', 'SELECT body AS text, flag AS label, ARRAY[true, false] AS choices FROM labelled');

-- a version that was trained before reads rows in evaluation as it did then
SELECT recipe ->> 'rendering' AS rendering FROM ia3.adapter WHERE task = 'paid';
INSERT INTO ia3.task (task, owner, backbone, template, choices)
    SELECT 'old', owner, backbone, template, choices FROM ia3.task WHERE task = 'paid';
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, examples, recipe, created_by)
    SELECT 'old', 1, vectors, backbone_digest, examples, recipe - 'rendering', created_by FROM ia3.adapter WHERE task = 'paid';
UPDATE ia3.task SET active_version = 1 WHERE task = 'old';
SELECT abs(e.mean_score_gap - gap) < 1e-9 AS as_written
  FROM ia3_evaluate('old', 'SELECT * FROM paid') e,
       (SELECT 2 * avg(CASE WHEN c.choice = label THEN score ELSE -score END) AS gap
          FROM paid, ia3_classify('old', jsonb_build_object('paid', left(paid::text, 1), 'text', text)) c) p;

SELECT ia3_drop(task) FROM ia3.task WHERE task IN ('rows', 'paid', 'flag', 'kind', 'grade', 'own', 'old') ORDER BY task;
DROP FUNCTION gap_in_training, gap_in_prediction;
DROP TABLE samples, paid, labelled;
DROP DOMAIN sample_domain;
DROP TYPE sample_row, sample_enum;
