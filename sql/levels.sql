-- Choices that are paths in a hierarchy: the upper levels of an answer.
SET client_min_messages = warning;
CREATE TABLE goods (id int, text text, label text);
INSERT INTO goods VALUES
    (1, 'over-ear, wireless, with a soft band', 'Electronics > Audio > Headphones'), (2, 'fills a room with sound', 'Electronics > Audio > Speakers'),
    (3, 'unlocked, two SIM cards', 'Electronics > Phones'), (4, 'waters twelve pots on its own', 'Home > Garden'),
    (5, 'noise-cancelling earbuds', 'Electronics > Audio > Headphones'), (6, 'seeds of sunflowers', 'Home > Garden'),
    (7, 'a voucher for anything', 'Gifts'), (8, 'a lamp for the bedside', 'Home');
SELECT ia3_train('goods', 'SELECT text, label FROM goods ORDER BY id', steps => 12, seed => 3);
-- the sums of the probabilities, the best of the scores, and whatever is most probable first
CREATE VIEW upper_sums AS
    SELECT g.id, d.depth, array_to_string((string_to_array(c.choice, ' > '))[:d.depth], ' > ') AS choice, sum(c.probability) AS probability, max(c.score) AS score
      FROM goods g CROSS JOIN generate_series(1, 4) d(depth), ia3_classify('goods', g.text) c GROUP BY 1, 2, 3;
SELECT d.depth, count(*) AS n, bool_and(abs(l.probability - s.probability) < 1e-12 AND l.score = s.score) AS same,
       bool_and(l.rank = (SELECT 1 + count(*) FROM upper_sums o WHERE o.id = g.id AND o.depth = d.depth AND o.probability > l.probability + 1e-12)) AS ranks
  FROM goods g CROSS JOIN generate_series(1, 4) d(depth), ia3_classify('goods', g.text, depth => d.depth) l
  LEFT JOIN upper_sums s USING (choice) WHERE s.id = g.id AND s.depth = d.depth GROUP BY 1 ORDER BY 1;
SELECT string_agg(choice, ', ' ORDER BY choice COLLATE "C") AS first_level, round(sum(probability)::numeric, 6) AS sum FROM ia3_classify('goods', 'a loud bell', depth => 1);
SELECT string_agg(choice, ', ' ORDER BY choice COLLATE "C") AS second_level FROM ia3_classify('goods', 'a loud bell', depth => 2);
-- NULL and deep levels change nothing; other separators, which need not occur
SELECT bool_and(a = b AND a = c) AS same FROM ia3_classify('goods', 'a loud bell') a
  JOIN ia3_classify('goods', 'a loud bell', depth => NULL) b USING (rank) JOIN ia3_classify('goods', 'a loud bell', depth => 2147483647) c USING (rank);
SELECT string_agg(choice, ' ' ORDER BY choice) FROM ia3_classify('goods', 'a loud bell', choices => '{a/b/c,a/b/d,a/e,f}', depth => 2, separator => '/');
SELECT string_agg(choice, ' ' ORDER BY choice) FROM ia3_classify('goods', 'a loud bell', choices => '{a/b/c,a/b/d,a/e,f}', depth => 1, separator => NULL);
SELECT string_agg('<' || choice || '>', ' ' ORDER BY choice) FROM ia3_classify('goods', 'a loud bell', choices => '{///,/a,aaaa,aa}', depth => 1, separator => '/');
SELECT string_agg('<' || choice || '>', ' ' ORDER BY choice) FROM ia3_classify('goods', 'a loud bell', choices => '{aaaaa,aaa,b}', depth => 2, separator => 'aa');
-- every form
SELECT bool_and(a = b AND a = c AND a = d AND a = e AND a = f) AS same
  FROM ia3_classify('goods', 'a loud bell', depth => 1) a JOIN ia3_classify('goods', '{"text": "a loud bell"}'::jsonb, depth => 1) b USING (rank)
  JOIN ia3_classify('goods', '{"text": "a loud bell"}'::json, depth => 1) c USING (rank) JOIN ia3_classify_fields('goods', '{"text": "a loud bell"}', depth => 1) d USING (rank)
  JOIN ia3_classify_fields('goods', '{"text": "a loud bell"}'::json, NULL, 1, ' > ') e USING (rank) JOIN ia3_classify_fields('goods', '{"text": "a loud bell"}'::jsonb, NULL, 1) f USING (rank);
-- one by one and in batches
EXPLAIN (COSTS OFF) SELECT g.id, c.choice FROM goods g, ia3_classify('goods', g.text, depth => 1) c;
CREATE TEMP TABLE ahead AS SELECT g.id, c.* FROM goods g, ia3_classify('goods', g.text, depth => 1) c;
SET ia3.enable_batching = off;
SELECT count(*), bool_and(a.probability = c.probability) AS same FROM goods g, ia3_classify('goods', g.text, depth => 1) c JOIN ahead a USING (choice) WHERE a.id = g.id;
RESET ia3.enable_batching;
-- many labels
SELECT count(*), round(sum(probability)::numeric, 6) AS sum, max(rank)
  FROM ia3_classify('goods', 'a loud bell', (SELECT array_agg('level ' || i / 100 || ' > ' || i / 10 % 10 || ' > ' || i % 10) FROM generate_series(0, 999) i), depth => 1);
SELECT count(*) FROM ia3_classify('goods', 'a loud bell', (SELECT array_agg('level ' || i / 100 || ' > ' || i / 10 % 10 || ' > ' || i % 10) FROM generate_series(0, 999) i), depth => 2);
-- NULL, and mistakes
SELECT (SELECT count(*) FROM ia3_classify('goods', NULL::text, depth => 1)), (SELECT count(*) FROM ia3_classify(NULL, 'text', depth => 1)), (SELECT count(*) FROM ia3_classify('goods', 'text', NULL, NULL, NULL)) AS all_choices;
SELECT * FROM ia3_classify('goods', 'text', depth => 0);
SELECT * FROM ia3_classify('goods', 'text', depth => -1);
SELECT * FROM ia3_classify('goods', 'text', depth => 1, separator => '');
SELECT * FROM ia3_classify('good', 'text', depth => 1);
SELECT * FROM ia3_classify('goods', 'text', '{a,a}', depth => 1);
SELECT * FROM ia3_classify('goods', '[]'::jsonb, depth => 1);
SELECT ia3_drop('goods');
DROP VIEW upper_sums;
DROP TABLE goods;
