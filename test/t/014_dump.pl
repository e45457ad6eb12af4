# Dumps and replicas: what becomes of tasks where their roles do not exist.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

my $node = ia3_node('source', conf => "wal_level = logical\nmax_wal_senders = 4\nmax_replication_slots = 4\n");
my $other = ia3_node('target', conf => "max_logical_replication_workers = 4\n");
create_shots($node);

sub value
{
    return $node->safe_psql('postgres', $_[0]);
}

# Dumps a database of the source and restores it in a new database of a node; returns what pg_restore complains about.
sub copy_database
{
    my ($from, $to, $name) = @_;
    my $dump = $node->backup_dir . "/$name.dump";
    my ($out, $err);

    mkdir $node->backup_dir;
    $node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr($from) ], "dump for $name");
    $to->safe_psql('postgres', "CREATE DATABASE $name");
    IPC::Run::run([ 'pg_restore', '-d', $to->connstr($name), $dump ], '<', \undef, '>', \$out, '2>', \$err);
    return $err;
}

my $scores = q{SELECT string_agg(choice || ' ' || score, ', ' ORDER BY rank) FROM ia3_classify('%s', 'my card is refused')};
my $tasks = q{SELECT string_agg(concat_ws(' ', task, owner, readers), E'\n' ORDER BY task) FROM ia3.task};

#
# A role that exists elsewhere
#
value(q{CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE "Mixed Case"; CREATE ROLE gone;
        GRANT SELECT ON shots TO PUBLIC; GRANT EXECUTE ON FUNCTION ia3_train TO alice, "Mixed Case", gone});
for (['alice', 'hers', q{, ensemble => 2, targets => '{q,k,o,wo}', calibrate => true}], ['"Mixed Case"', 'mixed', ''], ['gone', 'orphan', ''])
{
    my ($role, $task, $options) = @$_;
    value("SET ROLE $role; SELECT ia3_train('$task', 'SELECT text, label FROM shots', steps => 2, seed => 1 $options)");
}
value(q{SET ROLE alice; SELECT ia3_grant('hers', r) FROM unnest('{bob,Mixed Case,gone,public}'::text[]) r});
value(q{DROP OWNED BY gone; DROP ROLE gone; CREATE ROLE gone});
value('ALTER ROLE alice RENAME TO alicia');
my $number = value(q{SELECT owner FROM ia3.task WHERE task = 'orphan'});
like($number, qr/^[0-9]+$/, 'a dropped role is a number');
my $expected = qq(hers alicia {bob,"\\"Mixed Case\\"",$number,-}\nmixed "Mixed Case" {}\norphan $number {});
is(value($tasks), $expected, 'roles are shown by the names that they have now');
my $before = value(sprintf $scores, 'hers');
my $kept = q{SELECT count(min_probability), sum(min_probability), (SELECT string_agg(encode(row_hashes, 'hex'), ' ' ORDER BY task)
                                                                     FROM ia3.adapter_query) FROM ia3.task};
value(q{UPDATE ia3.task SET min_probability = 0.25 WHERE task = 'hers';
        CREATE VIEW careful AS SELECT ia3_predict('hers', text, min_probability => 0.999) AS often, ia3_predict('hers', text) AS always FROM shots});
my $careful = q{SELECT count(often) || ' ' || count(always) FROM careful};
my ($keeps, $answers) = (value($kept), value($careful));
like($keeps, qr/^1\|0.25\|([0-9a-f]{16})+ /, 'tasks keep their thresholds, and versions what rows they were trained on');
like($answers, qr/^0 [1-9]/, 'a threshold makes a difference');
my $calibrated = q{SELECT (SELECT string_agg(temperature::text, ' ') FROM ia3.adapter), jsonb_agg(to_jsonb(s) ORDER BY row_number) FROM ia3.adapter_scores s};
my $calibration = value($calibrated);
like($calibration, qr/^[0-9.]+\|\[\{.*"scores": \[/, 'a version is calibrated');

is(copy_database('postgres', $node, 'again'), '', 'the dump is restored in the same cluster');
is($node->safe_psql('again', $tasks), $expected, 'with all tasks');
is($node->safe_psql('again', $kept), $keeps, 'and thresholds');
is($node->safe_psql('again', $calibrated), $calibration, 'and what versions are calibrated with');
is($node->safe_psql('again', $careful), $answers, 'and views that call the functions as before');
is($node->safe_psql('again', q{SET ROLE alicia; SELECT string_agg(task, ' ') FROM ia3.task WHERE owner = 'alicia'}),
    'hers', 'the owner has her task');
is($node->safe_psql('again', q{SELECT count(*) FROM ia3.task WHERE pg_has_role('gone', owner::regrole, 'USAGE')}),
    '0', 'a role of the same name as the dropped one has none');

#
# Clusters without the roles
#
my $complaints = copy_database('postgres', $other, 'moved');
unlike($complaints, qr/COPY|ia3\.task|ia3\.adapter/, 'a cluster without the roles accepts all rows');
is($other->safe_psql('moved', $tasks), $expected, 'every task is there');
is($other->safe_psql('moved', 'SELECT count(*) FROM ia3.adapter'), '3', 'with its version');
is($other->safe_psql('moved', sprintf $scores, 'hers'), $before, 'and scores the same');
is($other->safe_psql('moved', 'SELECT count(query) FROM ia3.adapters'), '3', 'the queries are there');
is($other->safe_psql('moved', 'SELECT count(*) FROM ia3.task WHERE owner::regrole IS NULL'), '3', 'none has an owner');
$other->safe_psql('postgres', q{CREATE ROLE guest});
is($other->safe_psql('moved', q{SET ROLE guest; SELECT string_agg(task, ' ') FROM ia3.task}), 'hers', 'a grant to everybody still holds');
$other->safe_psql('moved', q{SELECT ia3_revoke('hers', 'public')});
is($other->safe_psql('moved', 'SET ROLE guest; SELECT count(*) FROM ia3.task'), '0', 'without it ordinary roles see nothing');
is($other->safe_psql('moved', q{SELECT ia3_reassign('Mixed Case', 'guest'), ia3_reassign('} . $number . q{', 'guest')}),
    '1|1', 'a superuser gives tasks to a role that exists');
is($other->safe_psql('moved', q{SET ROLE guest; SELECT string_agg(task, ' ' ORDER BY task) FROM ia3.task}), 'mixed orphan', 'to whom they belong');

# A name that came from elsewhere counts as soon as there is such a role; one that has been dropped here does not.
$other->safe_psql('postgres', 'CREATE ROLE alicia; CREATE ROLE bob');
is($other->safe_psql('moved', q{SET ROLE alicia; SELECT string_agg(task, ' ') FROM ia3.task}), 'hers', 'a role that is created later gets its tasks');
is($other->safe_psql('moved', q{SET ROLE bob; SELECT string_agg(task, ' ') FROM ia3.task}), 'hers', 'and what was granted to it');
is($other->safe_psql('moved', q{SELECT ia3_reassign('alicia', 'alicia')}), '1', 'reassigning it to itself settles which role is meant');
$other->safe_psql('postgres', 'DROP ROLE alicia; CREATE ROLE alicia');
is($other->safe_psql('moved', 'SET ROLE alicia; SELECT count(*) FROM ia3.task'), '0', 'then a role created under the name gets nothing');
$other->safe_psql('postgres', 'DROP ROLE alicia; DROP ROLE bob');

#
# The format of dumps before the release
#
$other->safe_psql('postgres', 'CREATE DATABASE old');
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('old'), '-f', 'dumps/regrole.sql' ],
    'a dump from before the release is restored');
$other->safe_psql('old', q{SELECT ia3_reassign('postgres', current_user)}); # no change where postgres is the superuser
is( $other->safe_psql('old', "$tasks WHERE owner <> current_user::regrole"),
    qq(of alice alice {bob,"\\"Mixed Case\\"",-,16502,"\\"007\\""}\nof gone 16502 {}\nof mixed "Mixed Case" {}),
    'with its owners and readers');
is($other->safe_psql('old', q{SELECT string_agg(choice || ' ' || round(score::numeric, 3), ', ' ORDER BY rank) FROM ia3_classify('of alice', 'charged')}),
    'billing -5.314, secret literal -7.864', 'a task scores as it did');
is($other->safe_psql('old', q{SELECT string_agg(step::text, ',') FROM ia3.checkpoint}), '1', 'a checkpoint is there');
is($other->safe_psql('old', q{SELECT query FROM ia3.adapters WHERE task = 'of alice'}),
    q{VALUES ('I was charged twice', 'billing'), ('cannot log in', 'secret literal')}, 'queries are there for owners');
is($other->safe_psql('old', q{SELECT count(*) FILTER (WHERE recipe ? 'query') || ' of ' || count(*) FROM ia3.adapter}), '0 of 4', 'and not in recipes');
is($other->safe_psql('old', q{SET ROLE guest; SELECT count(*) || ' ' || count(query) FROM ia3.adapters}), '1 0', 'nor can a reader see them');
# whatever role has the number here
my $oid = $other->safe_psql('old', q{SELECT oid FROM pg_roles WHERE rolname = 'guest'});
$other->safe_psql('old', "INSERT INTO ia3.task (task, owner, backbone, template) VALUES ('number', '$oid', 'default', '{}')");
is($other->safe_psql('old', q{SET ROLE guest; SELECT count(*) FROM ia3.task WHERE task = 'number'}), '0', 'an OID of another cluster means nobody');

#
# A database whose owner is no superuser
#
value(q{CREATE ROLE keeper LOGIN; CREATE ROLE dumper LOGIN BYPASSRLS IN ROLE keeper});
value('CREATE DATABASE kept OWNER keeper');
$node->safe_psql('kept', q{CREATE EXTENSION ia3; GRANT EXECUTE ON FUNCTION ia3_train TO keeper, alicia;
    SET ROLE keeper; CREATE TABLE notes AS SELECT 'a note' AS text; CREATE SCHEMA other; CREATE TABLE other.notes ();
    SELECT ia3_train('own', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1);
    SET ROLE alicia;
    SELECT ia3_train('hidden', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1)});

# Returns the standard output of pg_dump with some options, without vectors, and its standard error.
sub dump_as
{
    my ($role, @options) = @_;
    my ($out, $err);
    IPC::Run::run([ 'pg_dump', '-U', $role, @options, '-d', $node->connstr('kept') ], '<', \undef, '>', \$out, '2>', \$err);
    return ($out =~ s/[0-9a-f]{1000,}/.../gr, $err);
}

my ($dump, $err);
for my $options ([], [ '-t', 'ia3.*' ])
{
    ($dump, $err) = dump_as('keeper', @$options);
    like($err, qr/query would be affected by row-level security policy for table "given_version"/, "the owner cannot run pg_dump @$options");
}
($dump, $err) = dump_as('dumper');
is($err, '', 'a member of the owner that bypasses row security can');
like($dump, qr/CREATE EXTENSION.*^COPY ia3\.task .*^own\t.*^hidden\t.*^COPY ia3\.adapter .*^COPY public\.notes .*^a note$/ms, 'and everything is in the dump');
for my $options ([ '-n', 'public' ], [ '-t', 'public.notes' ])
{
    ($dump, $err) = dump_as('keeper', @$options);
    is($err, '', "the owner can run pg_dump @$options");
    like($dump, qr/^COPY public\.notes /m, 'which contains tables of his');
    unlike($dump, qr/EXTENSION|COPY ia3/, 'but neither the extension nor tasks');
}
for my $options ([ '-N', 'ia3' ], [ '--exclude-table-data=ia3.*' ])
{
    ($dump, $err) = dump_as('keeper', @$options);
    is($err, '', "the owner can leave out the rows of ia3 with @$options");
    like($dump, qr/CREATE EXTENSION.*^COPY public\.notes /ms, 'then the extension is in the dump');
    unlike($dump, qr/^COPY ia3/m, 'without tasks');
}
($dump, $err) = dump_as('dumper', '-n', 'ia3');
unlike($dump, qr/^COPY/m, '-n ia3 selects nothing, because the schema belongs to the extension');
my $file = $node->backup_dir . '/tasks.sql';
$node->command_ok([ 'pg_dump', '-t', 'ia3.*', '-f', $file, '-d', $node->connstr('kept') ], 'pg_dump of the tasks alone');
$other->safe_psql('postgres', 'CREATE DATABASE taken');
$other->safe_psql('taken', 'CREATE EXTENSION ia3');
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('taken'), '-f', $file ], 'is restored where the extension is');
is($other->safe_psql('taken', q{SELECT string_agg(task || owner, ' ' ORDER BY task) FROM ia3.task}), 'hiddenalicia ownkeeper', 'with all tasks');
($dump, $err) = dump_as('keeper', '--enable-row-security');
is($err, '', 'with --enable-row-security he can');
like($dump, qr/^own\t/m, 'but the dump has only the tasks that he may read');
unlike($dump, qr/hidden/, 'and not those of others');

#
# A single task on its way to another database
#
my $export = value(q{SELECT ia3_export_task('hers')});
$other->safe_psql('postgres', 'CREATE DATABASE single');
$other->safe_psql('single', 'CREATE EXTENSION ia3');
$other->safe_psql('single', "SELECT ia3_import_task('$export')");
is($other->safe_psql('single', sprintf $scores, 'hers'), $before, 'an exported task scores the same in another cluster');
is($other->safe_psql('single', 'SELECT owner = current_user::regrole FROM ia3.task'), 't', 'where it belongs to whoever has imported it');

#
# Columns, constraints and views that call the model; their schema comes before ia3
#
value('CREATE DATABASE calling');
$node->safe_psql('calling', q{
    CREATE EXTENSION ia3; CREATE SCHEMA app;
    SELECT ia3_train('kind', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1);
    CREATE FUNCTION app.kind(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT public.ia3_predict('kind', $1)$$;
    CREATE FUNCTION app.fill() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.kind := public.ia3_predict('kind', NEW.body); RETURN NEW; END$$;
    CREATE TABLE app.filled (body text, kind text);
    CREATE TRIGGER fill BEFORE INSERT OR UPDATE OF body ON app.filled FOR EACH ROW EXECUTE FUNCTION app.fill();
    CREATE TABLE app.checked (body text);
    ALTER TABLE app.checked ADD CHECK (public.ia3_predict('kind', body) IN ('billing', 'access')) NOT VALID;
    CREATE TABLE app.indexed (body text);
    CREATE INDEX ON app.indexed (app.kind(body));
    CREATE TABLE public.generated (body text, kind text GENERATED ALWAYS AS (app.kind(body)) STORED);
    INSERT INTO app.filled VALUES ('pay'), ('password');
    INSERT INTO app.checked VALUES ('pay'), ('password');
    INSERT INTO app.indexed VALUES ('pay'), ('password');
    CREATE MATERIALIZED VIEW app.kinds AS SELECT body, public.ia3_predict('kind', body) AS kind FROM app.filled;
});
my $rows = q{SELECT string_agg(concat_ws(',', body, kind), ' ' ORDER BY body) FROM app.%s};
my $filled = $node->safe_psql('calling', sprintf $rows, 'filled');
my $sums = q{SELECT (SELECT count(*) FROM app.filled) || ' ' || (SELECT count(*) FROM app.checked) || ' ' || (SELECT count(*) FROM app.indexed)};
is(copy_database('calling', $other, 'safe'), '', 'triggers, checks that are not valid, indexes and materialized views are restored');
is($other->safe_psql('safe', $sums), '2 2 2', 'with all rows');
is($other->safe_psql('safe', sprintf $rows, 'filled'), $filled, 'a column that a trigger fills has the values that it had');
is($other->safe_psql('safe', sprintf $rows, 'kinds'), $filled, 'a materialized view is filled again');
$other->safe_psql('safe', q{INSERT INTO app.filled VALUES ('charged')});
is($other->safe_psql('safe', 'SELECT count(kind) FROM app.filled'), '3', 'the trigger is there');
is($other->safe_psql('safe', q{SELECT convalidated FROM pg_constraint WHERE conrelid = 'app.checked'::regclass}), 'f', 'and so is the check');

# These do not: the rows are computed or checked again while they are loaded.
$node->safe_psql('calling', q{
    CREATE TABLE app.generated (body text, kind text GENERATED ALWAYS AS (app.kind(body)) STORED);
    CREATE TABLE app.strict (body text CHECK (public.ia3_predict('kind', body) IN ('billing', 'access')));
    INSERT INTO app.generated VALUES ('pay'), ('password');
    INSERT INTO app.strict VALUES ('pay'), ('password');
});
like(copy_database('calling', $other, 'unsafe'), qr/COPY failed for table "generated".*COPY failed for table "strict"/s, 'generated columns and checks fail before the tasks are there');
my $lost = q{SELECT (SELECT count(*) FROM app.generated) || ' ' || (SELECT count(*) FROM app.strict)};
is($other->safe_psql('unsafe', $lost), '0 0', 'and the rows are lost');
$other->safe_psql('postgres', 'CREATE DATABASE inorder');
for my $part ([ '--section=pre-data' ], [ '--data-only', '-n', 'ia3' ], [ '--section=data', '-N', 'ia3' ], [ '--section=post-data' ])
{
    $other->command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('inorder'), @$part, $node->backup_dir . '/unsafe.dump' ],
        "pg_restore @$part");
}
is($other->safe_psql('inorder', $lost), '2 2', 'tasks first, and such a dump loses nothing');
is($other->safe_psql('inorder', sprintf $rows, 'kinds'), $filled, 'the rest is there as well');

#
# Subscribers without the roles, in both formats
#
value('CREATE PUBLICATION tasks FOR TABLE ia3.task, ia3.adapter');
my $connstr = $node->connstr . ' dbname=postgres';
# PostgreSQL 13 does not know the binary format
my @formats = $other->safe_psql('postgres', 'SHOW server_version_num') < 140000 ? ('false') : ('false', 'true');
for my $binary (@formats)
{
    my $database = "subscriber_$binary";
    $other->safe_psql('postgres', "CREATE DATABASE $database");
    $other->safe_psql($database, "CREATE EXTENSION ia3; CREATE SUBSCRIPTION $database CONNECTION '$connstr'
        PUBLICATION tasks" . ($binary eq 'true' ? ' WITH (binary = true)' : ''));
    $other->poll_query_until($database, q{SELECT count(*) = 2 AND bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel})
        or die 'no initial synchronisation';
    is($other->safe_psql($database, $tasks), $expected, "a subscriber without the roles has all tasks (binary = $binary)");
}
# a publisher from before the release sends the query with the recipe
value(q{ALTER TABLE ia3.adapter DISABLE TRIGGER adapter_move_query;
    INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
        SELECT task, 7, 'x', backbone_digest, recipe || '{"query": "SELECT secret"}', created_by FROM ia3.adapter WHERE task = 'hers';
    ALTER TABLE ia3.adapter ENABLE ALWAYS TRIGGER adapter_move_query});
value(q{UPDATE ia3.task SET comment = 'changed'; ALTER ROLE alicia RENAME TO alice; SELECT ia3_revoke('hers', 'bob')});
for my $database (map { "subscriber_$_" } @formats)
{
    $node->wait_for_catchup($database);
    is($other->safe_psql($database, q{SELECT count(*) || max(owner::text) FILTER (WHERE task = 'hers') FROM ia3.task WHERE comment = 'changed'}),
        '3alice', "$database gets changes and the new name");
    is($other->safe_psql($database, sprintf $scores, 'hers'), $before, "$database scores the same");
    is($other->safe_psql($database, q{SELECT query, recipe ? 'query' FROM ia3.adapters WHERE version = 7}), 'SELECT secret|f',
        "$database keeps queries from readers, whatever the publisher does");
    $other->safe_psql($database, "DROP SUBSCRIPTION $database");
}

#
# pg_upgrade copies the stored rows: the roles have the same OIDs in the new cluster
#
value('ALTER ROLE alice RENAME TO alicia; CREATE ROLE alice');
my $shown = value($tasks);
$other->stop;
$node->stop;
my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
$upgraded->init;
$upgraded->append_conf('postgresql.conf', "shared_preload_libraries = 'ia3'");
chomp(my $bin = qx($ENV{PG_CONFIG} --bindir));
$node->command_ok([ 'pg_upgrade', '-b', $bin, '-B', $bin, '-d', $node->data_dir, '-D', $upgraded->data_dir,
        '-p', $node->port, '-P', $upgraded->port, '-s', $node->host ], 'pg_upgrade');
$upgraded->start;
is($upgraded->safe_psql('postgres', $tasks), $shown, 'owners and readers are the same after pg_upgrade');
is($upgraded->safe_psql('postgres', q{SET ROLE alicia; SELECT string_agg(task, ' ') FROM ia3.task WHERE owner = 'alicia'}),
    'hers', 'a role that was renamed before has its tasks');
is($upgraded->safe_psql('postgres', q{SELECT count(*) FROM ia3.task WHERE pg_has_role('alice', owner::regrole, 'USAGE')}),
    '0', 'the one that has its name now has not');
$upgraded->stop;

done_testing();
