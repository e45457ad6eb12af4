-- Databases in other encodings: the engine gets the same text, and its messages can always be shown.
SELECT current_database() AS utf8_database \gset
CREATE DATABASE regress_ia3_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
\c regress_ia3_latin1
SET client_encoding = 'UTF8';
SET client_min_messages = warning;
CREATE EXTENSION ia3;

-- pieces: characters that the encoding lacks are written as escapes
SELECT id, piece FROM ia3_tokenize('Käse für 1½') ORDER BY position;
SELECT ia3_train('mensa', $$VALUES ('Käse', 'süß'), ('Brot', 'salzig')$$, steps => 2, seed => 1,
    template => ARRAY['{text} schmeckt wie ä:'], choices => ARRAY['süß', 'salzig']);
SELECT choices FROM ia3.task;
SELECT encode(digest, 'hex') AS latin1_digest FROM ia3.adapter \gset
SELECT ia3_predict('Käse', ARRAY['süß', 'süß ']);

\c :utf8_database
SET client_encoding = 'UTF8';
SET client_min_messages = warning;
SELECT getdatabaseencoding();
SELECT id, piece FROM ia3_tokenize('Käse für 1½') ORDER BY position;
SELECT ia3_train('mensa', $$VALUES ('Käse', 'süß'), ('Brot', 'salzig')$$, steps => 2, seed => 1,
    template => ARRAY['{text} schmeckt wie ä:'], choices => ARRAY['süß', 'salzig']);
SELECT encode(digest, 'hex') = :'latin1_digest' AS same_vectors FROM ia3.adapter WHERE task = 'mensa';
SELECT ia3_predict('Käse', ARRAY['süß', 'süß ']);
SELECT ia3_drop('mensa');
DROP DATABASE regress_ia3_latin1;
