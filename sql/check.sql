-- ia3_check_backbone: what a directory is, run by the engine program.
SELECT path AS backbone FROM ia3_stat_engine WHERE backbone = 'default' LIMIT 1
\gset
SELECT level, item, value FROM ia3_check_backbone(:'backbone')
 WHERE item NOT IN ('directory', 'time', 'scores');
SELECT item, split_part(value, ' ', 1) AS first, split_part(value, ' ', 3) AS second
  FROM ia3_check_backbone(path => :'backbone', time_limit => '5 minutes') WHERE item = 'scores' AND value ~ '-3\.5.*-7\.';
SELECT level, item, replace(value, current_setting('data_directory'), 'DATA') AS value
  FROM ia3_check_backbone(current_setting('data_directory') || '/base');
SELECT level, item, value FROM ia3_check_backbone('example/none-such') WHERE item <> 'detail';
SELECT level, item, value FROM ia3_check_backbone('/nonexistent/x');
SELECT count(*) FROM ia3_check_backbone(NULL);

SELECT ia3_check_backbone('a/b/c');
\echo :SQLSTATE
SELECT ia3_check_backbone(:'backbone', '-1 s');
\echo :SQLSTATE
SELECT ia3_check_backbone(:'backbone', '1 ms');
\echo :SQLSTATE
SET statement_timeout = '5ms';
SELECT count(*) FROM ia3_check_backbone(:'backbone');
\echo :SQLSTATE
RESET statement_timeout;

-- Only roles that may read files of the server.
CREATE ROLE ia3_check_reader;
SET ROLE ia3_check_reader;
SELECT ia3_check_backbone(:'backbone');
\echo :SQLSTATE
RESET ROLE;
GRANT pg_read_server_files TO ia3_check_reader;
SET ROLE ia3_check_reader;
SELECT count(*) FROM ia3_check_backbone(:'backbone') WHERE level <> 'info';
RESET ROLE;
DROP ROLE ia3_check_reader;
