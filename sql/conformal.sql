-- The quantile of split conformal prediction: the k-th smallest of n scores, k = ceil((n + 1) * coverage).
SET client_min_messages = warning;

SELECT coverage, ia3.conformal_quantile('{0.4,0.1,0.3,0.2}', coverage)
  FROM unnest('{0,0.1,0.2,0.21,0.4,0.6,0.8,0.81,1}'::float8[]) coverage;
-- products that are integers but for rounding: of 99 scores the 7th, 55th and 90th
SELECT ia3.conformal_quantile(array_agg(i::float8 ORDER BY i * 37 % 100), 0.07), ia3.conformal_quantile(array_agg(i), 0.55),
       ia3.conformal_quantile(array_agg(i), 0.9) FROM generate_series(1, 99) i;
SELECT ia3.conformal_quantile('{}', 0.5) AS none, ia3.conformal_quantile('{0.5}', 0.5) AS one, ia3.conformal_quantile('{0.5}', 0.51) AS too_few,
       ia3.conformal_quantile('{0.5,0.5,0.5}', 0.7) AS equal, ia3.conformal_quantile('{{0.1,0.2},{0.3,0.4}}', 0.8) AS array_of_arrays;

-- 200 draws of exchangeable scores, some of them discrete: a further score is within the quantile as often as asked, and not much
-- oftener. n scores cover at most 1 / (n + 1) too much if they are distinct
SELECT setseed(0.25);
CREATE TABLE conformal_draws AS
    SELECT draw, n, discrete, i, CASE WHEN discrete THEN round((x * x)::numeric, 1)::float8 ELSE x * x END AS score
      FROM generate_series(1, 200) draw, unnest('{19,50}'::int[]) n, unnest('{f,t}'::bool[]) discrete, generate_series(1, n + 50) i,
           LATERAL (SELECT random() + 0 * (draw + n + i) AS x) r;
CREATE TABLE conformal_covered AS
    SELECT n, discrete, asked, avg(covered) AS covered
      FROM (SELECT draw, n, discrete, asked,
                   (SELECT avg((d.score <= q)::int) FROM conformal_draws d
                     WHERE d.draw = s.draw AND d.n = s.n AND d.discrete = s.discrete AND d.i > d.n) AS covered
              FROM (SELECT draw, n, discrete, asked, ia3.conformal_quantile(array_agg(score), asked) AS q
                      FROM conformal_draws, unnest('{0.5,0.8,0.9,0.95}'::float8[]) asked WHERE i <= n
                     GROUP BY draw, n, discrete, asked) s) t
     GROUP BY n, discrete, asked;
SELECT n, discrete, asked, covered >= asked - 0.02 AS enough, CASE WHEN NOT discrete THEN covered <= asked + 1.0 / (n + 1) + 0.02 END AS not_too_much
  FROM conformal_covered ORDER BY n, discrete, asked;
DROP TABLE conformal_draws, conformal_covered;

SELECT ia3.conformal_quantile(NULL, 0.9) IS NULL, ia3.conformal_quantile('{0.1}', NULL) IS NULL;
SELECT ia3.conformal_quantile('{0.1}', 1.1);
SELECT ia3.conformal_quantile('{0.1}', -0.1);
SELECT ia3.conformal_quantile('{0.1}', 'NaN');
SELECT ia3.conformal_quantile('{0.1,NULL}', 0.9);
SELECT ia3.conformal_quantile('{0.1,NaN}', 0.9);
