-- ia3: a support desk learns to sort its tickets.

CREATE EXTENSION ia3;

-- The backbone is held by one engine process, shared by all connections.
SELECT backbone, state, device, dtype, parameters FROM ia3_stat_engine;

-- 60 labelled tickets to learn from, 40 held out.
CREATE TABLE tickets (id int PRIMARY KEY, body text, label text, held_out boolean DEFAULT false);
\copy tickets (id, body, label) FROM 'tickets_train.csv' CSV HEADER
ALTER TABLE tickets ALTER held_out SET DEFAULT true;
\copy tickets (id, body, label) FROM 'tickets_test.csv' CSV HEADER
SELECT label, count(*) FILTER (WHERE NOT held_out) AS train, count(*) FILTER (WHERE held_out) AS held_out
  FROM tickets GROUP BY label ORDER BY label;

-- Without any training: the bare backbone ranks the candidate answers.
SELECT * FROM ia3_classify('What is the message about? I was charged twice in November',
                           ARRAY['payment', 'error', 'account', 'suggestion']);

-- Training is one function over one query. The task becomes a row of a few kilobytes.
SELECT ia3_train('tickets', $$SELECT body AS text, label FROM tickets WHERE NOT held_out ORDER BY id$$,
                 template => ARRAY['What is the message about? {text}'], seed => 1);

-- From now on the task's name is all a query needs.
SELECT * FROM ia3_classify('tickets', 'Two payments left our bank account for one order.');
SELECT body FROM tickets WHERE held_out AND ia3_predict('tickets', body) = 'suggestion' ORDER BY id LIMIT 5;

-- The held-out tickets, before and after.
CREATE TABLE predictions AS
SELECT t.id, t.body, t.label AS truth, z.choice AS zero_shot, c.choice AS trained, c.probability
  FROM tickets t,
       ia3_classify('What is the message about? ' || t.body, ARRAY['payment', 'error', 'account', 'suggestion']) z,
       ia3_classify('tickets', t.body) c
 WHERE t.held_out AND z.rank = 1 AND c.rank = 1;

SELECT left(body, 60) AS ticket, truth, zero_shot, trained, round(probability::numeric, 2) AS probability
  FROM predictions WHERE id % 2 = 0 ORDER BY id;

SELECT task, version, active, examples, size FROM ia3.adapters;

\pset tuples_only on
\pset format unaligned
SELECT format('zero-shot accuracy %s, trained accuracy %s on %s held-out rows',
              round(avg((zero_shot = truth)::int), 3), round(avg((trained = truth)::int), 3), count(*))
  FROM predictions;
