-- Tables for random queries (perl/Ia3RandomQuery.pm), besides those of setup.sql. They are very small because there are many queries.
CREATE TABLE items (id int PRIMARY KEY, body text, n int);
INSERT INTO items VALUES (1, 'red sea', 1), (2, 'a blue topic', 2), (3, NULL, 3), (4, 'sad mood', 4), (5, 'yes sir', 5),
    (6, 'one of two', 6), (7, 'red sea', 7), (8, 'x marks y', 8);
CREATE TABLE few (tid int PRIMARY KEY, name text, body text, choices text[]);
INSERT INTO few VALUES (0, 'topic', 'sky', ARRAY['red', 'blue']), (1, 'mood', NULL, ARRAY['happy', 'angry', 'sad']),
    (2, 'sum', 'deep sea', ARRAY['yes', 'no']);
ANALYZE items, few;
