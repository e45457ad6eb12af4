-- ia3: a support desk learns to sort its tickets.

CREATE EXTENSION ia3;

-- 60 labelled tickets to learn from, 40 held out.
CREATE TABLE tickets (id int PRIMARY KEY, body text, label text, held_out boolean DEFAULT false);
\copy tickets (id, body, label) FROM 'tickets_train.csv' CSV HEADER
ALTER TABLE tickets ALTER held_out SET DEFAULT true;
\copy tickets (id, body, label) FROM 'tickets_test.csv' CSV HEADER
SELECT label, count(*) FILTER (WHERE NOT held_out) AS train, count(*) FILTER (WHERE held_out) AS held_out
  FROM tickets GROUP BY label ORDER BY label;

-- Without any training the bare backbone ranks the candidate answers.
SELECT choice, round(probability::numeric, 3) AS probability, rank
  FROM ia3_classify('Which intent does this message express? My card expired and the payment failed',
                    ARRAY['account', 'billing', 'bug', 'feature request']);

-- The backbone is held by one engine process, shared by all connections.
SELECT backbone, state, device, dtype, parameters FROM ia3_stat_engine;

-- Training is one function over one query. What it learns is one row of 80 kB.
SELECT ia3_train('tickets', $$SELECT body AS text, label FROM tickets WHERE NOT held_out ORDER BY id$$,
                 template => ARRAY['Which intent does this message express? {text}'], seed => 1);
SELECT task, version, active, backbone, examples, size AS bytes FROM ia3.adapters;

-- From now on the name of the task is all that a query needs.
SELECT choice, round(probability::numeric, 3) AS probability, rank
  FROM ia3_classify('tickets', 'My card expired and the payment failed');

-- The held-out tickets, before and after training: same prompt, same choices.
CREATE TABLE predictions AS
SELECT t.id, t.body, t.label AS truth, z.choice AS zero_shot, c.choice AS trained, c.probability
  FROM tickets t,
       ia3_classify('Which intent does this message express? ' || t.body,
                    ARRAY['account', 'billing', 'bug', 'feature request']) z,
       ia3_classify('tickets', t.body) c
 WHERE t.held_out AND z.rank = 1 AND c.rank = 1;

SELECT CASE WHEN length(body) > 50 THEN left(body, 48) || ' …' ELSE body END AS ticket,
       truth, zero_shot, trained, round(probability::numeric, 2) AS probability
  FROM predictions WHERE id % 2 = 0 ORDER BY id;

\pset tuples_only on
\pset format unaligned
SELECT format('zero-shot accuracy %s, trained accuracy %s on %s held-out rows',
              round(avg((zero_shot = truth)::int), 3), round(avg((trained = truth)::int), 3), count(*))
  FROM predictions;
