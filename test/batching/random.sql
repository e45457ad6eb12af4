-- Tables for random queries (perl/Ia3RandomQuery.pm), besides those of setup.sql. They are very small because there are many queries.
CREATE TABLE items (id int PRIMARY KEY, body text, n int, mark text);
INSERT INTO items VALUES (1, 'red sea', 1), (2, 'a blue topic', 2), (3, NULL, 3), (4, 'sad mood', 4), (5, 'yes sir', 5),
    (6, 'one of two', 6), (7, 'red sea', 7), (8, 'x marks y', 8);
CREATE TABLE few (tid int PRIMARY KEY, name text, body text, choices text[]);
INSERT INTO few VALUES (0, 'topic', 'sky', ARRAY['red', 'blue']), (1, 'mood', NULL, ARRAY['happy', 'angry', 'sad']),
    (2, 'sum', 'deep sea', ARRAY['yes', 'no']);
-- the same rows in a table with a child, and in one with partitions
CREATE TABLE family (LIKE items);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (family);
CREATE TABLE split (LIKE items) PARTITION BY RANGE (id);
CREATE TABLE split1 PARTITION OF split FOR VALUES FROM (0) TO (4);
CREATE TABLE split2 PARTITION OF split DEFAULT;
INSERT INTO family SELECT * FROM items WHERE id < 4;
INSERT INTO child SELECT * FROM items WHERE id >= 4;
INSERT INTO split SELECT * FROM items;
ANALYZE items, family, child, split, few;

-- Loops over a query that change its table: by its key, by the cursor's position, and with subtransactions.
CREATE FUNCTION loop_by_key(query text, tab text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
    FOR r IN EXECUTE query LOOP
        EXECUTE format('UPDATE %I SET mark = $1, n = n + 1 WHERE id = $2', tab) USING r::text, r.k;
        RETURN NEXT r::text;
        EXIT WHEN r.k = 6;
    END LOOP;
END $$;
CREATE FUNCTION loop_by_position(query text, tab text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE r record; c refcursor := 'here'; n int := 0;
BEGIN
    OPEN c FOR EXECUTE query;
    LOOP
        FETCH c INTO r;
        EXIT WHEN NOT FOUND OR n > 12;
        EXECUTE format('UPDATE %I SET mark = $1 WHERE CURRENT OF here', tab) USING r::text;
        n := n + 1;
        RETURN NEXT r::text;
        IF n = 3 THEN
            MOVE RELATIVE -2 FROM c;
        END IF;
    END LOOP;
END $$;
CREATE FUNCTION loop_with_exceptions(query text, tab text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE r record; c refcursor := 'here';
BEGIN
    OPEN c FOR EXECUTE query;
    LOOP
        BEGIN
            FETCH c INTO r;
            EXIT WHEN NOT FOUND;
            EXECUTE format('DELETE FROM %I WHERE CURRENT OF here', tab);
            IF r.k % 2 = 0 THEN
                RAISE EXCEPTION 'undo';
            END IF;
            RETURN NEXT r::text;
        EXCEPTION WHEN raise_exception THEN
            RETURN NEXT 'undone ' || r::text;
        END;
    END LOOP;
END $$;
CREATE TABLE notes (note text);
CREATE FUNCTION note_marks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE format('INSERT INTO notes SELECT $1 || string_agg(mark, '','' ORDER BY id) FROM %I', tg_table_name) USING NEW.mark;
    RETURN NEW;
END $$;
CREATE FUNCTION note_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO notes SELECT ia3_predict('mood', mark, ARRAY['happy', 'angry', 'sad']) || id FROM changed;
    RETURN NULL;
END $$;
