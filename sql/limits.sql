-- What bounds the work that a role can give to an engine.
SET client_min_messages = warning;
CREATE ROLE regress_ia3_busy;
SET ROLE regress_ia3_busy;

-- the number of choices, wherever they come from
SET ia3.max_choices = 20000;
SHOW ia3.max_choices;
SELECT ia3_predict('a text', ARRAY(SELECT 'choice ' || g FROM generate_series(1, 10001) g));
SELECT count(*), round(sum(probability)::numeric, 6)
  FROM ia3_classify('a text', ARRAY(SELECT 'choice ' || g FROM generate_series(1, 10000) g));
RESET ROLE;
SELECT ia3_train('few', $$VALUES ('a', 'x'), ('b', 'y'), ('c', 'z')$$, steps => 1);
SET ia3.max_choices = 2;
SELECT ia3_predict('few', 'a');
SELECT ia3_predict('few', 'a', ARRAY['x', 'y', 'z']);
SELECT ia3_predict('few', 'a', ARRAY['x', 'y']) IN ('x', 'y') AS works;
SELECT accuracy FROM ia3_evaluate('few', $$VALUES ('a', 'x')$$);
SELECT ia3_train('many', $$VALUES ('a', 'x'), ('b', 'y'), ('c', 'z')$$, steps => 1);
SELECT ia3_train('many', $$VALUES ('a', 'x')$$, choices => ARRAY['x', 'y', 'z'], steps => 1);
SELECT ia3_train('many', $$SELECT 'a' AS text, 'x' AS label, ARRAY['x', 'y', 'z'] AS choices$$, steps => 1);
RESET ia3.max_choices;

-- many choices are scored in pieces; a choice's score does not depend on the others
WITH many AS (SELECT * FROM ia3_classify('where is my parcel', ARRAY(SELECT 'number ' || g FROM generate_series(1, 5000) g))),
     few AS (SELECT * FROM ia3_classify('where is my parcel', ARRAY(SELECT 'number ' || g FROM generate_series(1, 5000, 100) g)))
SELECT count(*), max(abs(many.score - few.score)) < 1e-4 AS same FROM many JOIN few USING (choice);

SELECT ia3_drop('few');
DROP ROLE regress_ia3_busy;

-- many tasks with templates of their own, and messages about many fields, take no longer than it takes to read them
DO $$
DECLARE
    many jsonb;
BEGIN
    SET LOCAL statement_timeout = '30s';
    SELECT jsonb_object_agg('task ' || g, '{text}') INTO many FROM generate_series(1, 100000) g;
    CALL ia3_pretrain('never', 'SELECT g AS text, g % 2 AS label, ''task '' || g AS task FROM generate_series(1, 100001) g',
                      templates => many, steps => 1);
END $$;
SELECT ia3_render('{text}', (SELECT jsonb_object_agg('f' || g, g) FROM generate_series(1, 100000) g));
SELECT ia3_render('{text}', jsonb_build_object(repeat('x', 100000), 1));
