-- Tables and tasks for corpus.sql and for random queries. They are small because every query runs many times.
SET client_min_messages = warning;

-- three training runs, copied under many names: it only matters that tasks differ
CREATE TABLE shots (text text, label text);
INSERT INTO shots VALUES ('red apple', 'a'), ('blue sky', 'b'), ('green tree', 'a'), ('deep sea', 'b');
SELECT ia3_train('base1', 'SELECT text, label FROM shots', steps => 3, batch_size => 2, learning_rate => 0.003, seed => 1,
    template => ARRAY['{text} Topic:']);
SELECT ia3_train('base2', 'SELECT text, label FROM shots', steps => 3, batch_size => 2, learning_rate => 0.01, seed => 2);
SELECT ia3_train('base3', 'SELECT text, label FROM shots', steps => 4, batch_size => 2, learning_rate => 0.03, seed => 3,
    template => ARRAY['Text: {text} Choose {choices}:']);
CREATE FUNCTION copy_task(source text, target text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO ia3.task (task, owner, backbone, template, choices, active_version, next_version)
        SELECT target, owner, backbone, template, choices, active_version, next_version FROM ia3.task WHERE task = source;
    INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, examples, recipe, metrics, created_by)
        SELECT target, version, vectors, backbone_digest, examples, recipe, metrics, created_by FROM ia3.adapter
         WHERE task = source;
$$;
SELECT copy_task('base1', name)
  FROM unnest('{topic,q,n1,second,first,p2,q0,q-1,t0,find topic,h}'::text[]) name;
SELECT copy_task('base2', name)
  FROM unnest('{mood,r,n2,other,third,p1,q1,t1,find mood,w}'::text[]) name;
SELECT copy_task('base3', name) FROM unnest('{sum,x,z}'::text[]) name;
SELECT copy_task('base' || 1 + n % 3, 'p' || n) FROM generate_series(3, 100) n;

CREATE TABLE tickets (id int PRIMARY KEY, task text, body text, choices text[], grp int);
INSERT INTO tickets SELECT i, 'topic', (ARRAY['printer', 'login', 'invoice', 'server', 'colour', 'why'])[1 + i % 6] || ' ' || left(md5(i::text), 5), ARRAY['bug', 'feature', 'question'],
    i % 10 FROM generate_series(1, 30) i;
CREATE TABLE tasks (tid int PRIMARY KEY, name text, instruction text, choices text[]);
INSERT INTO tasks VALUES (1, 'topic', 'find topic', ARRAY['bug', 'feature', 'question']),
    (2, 'mood', 'find mood', ARRAY['happy', 'angry']);
-- n: 2, 5, 10, 13, ..., 50, ..., 93
CREATE TABLE smalltk (id int PRIMARY KEY, body text, n int);
INSERT INTO smalltk SELECT i, CASE WHEN i % 7 <> 0 THEN (ARRAY['a red one', 'mood b', 'sea', 'x or y', 'topic a', 'angry b cat'])[1 + i % 6] || i % 10 END, (i - 1) * 4 + 2 - (i + 1) % 2
    FROM generate_series(1, 24) i;
CREATE TABLE part (id int, body text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (5);
CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (5) TO (200);
INSERT INTO part SELECT i, 'p' || i FROM generate_series(1, 12) i;
CREATE TABLE bigx (id int, body text);
INSERT INTO bigx SELECT i, string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 5) i, generate_series(1, 200) j
    GROUP BY i;
CREATE TABLE big (LIKE bigx);
ALTER TABLE big ALTER body SET STORAGE EXTERNAL;
INSERT INTO big SELECT * FROM bigx;
CREATE TABLE docs (id int PRIMARY KEY, doc jsonb, label text);
INSERT INTO docs SELECT i, jsonb_build_object('text', 'doc ' || i, 'n', i), CASE WHEN i % 3 = 0 THEN 'old' END
    FROM generate_series(1, 12) i;

CREATE FUNCTION label(b text) RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT ia3_predict('topic', b, ARRAY['a', 'b', 'c']) $$;
CREATE FUNCTION top1(b text) RETURNS TABLE (choice text, score float8) LANGUAGE sql STABLE AS
    $$ SELECT choice, score FROM ia3_classify('topic', b, ARRAY['a', 'b', 'c']) ORDER BY rank LIMIT 1 $$;
CREATE VIEW vt AS SELECT id, grp, ia3_predict(task, body, choices) AS lab FROM tickets;
ANALYZE;
