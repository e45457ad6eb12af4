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
for (['alice', 'hers'], ['"Mixed Case"', 'mixed'], ['gone', 'orphan'])
{
    my ($role, $task) = @$_;
    value("SET ROLE $role; SELECT ia3_train('$task', 'SELECT text, label FROM shots', steps => 2, seed => 1)");
}
value(q{SET ROLE alice; SELECT ia3_grant('hers', r) FROM unnest('{bob,Mixed Case,gone,public}'::text[]) r});
value(q{DROP OWNED BY gone; DROP ROLE gone; CREATE ROLE gone});
value('ALTER ROLE alice RENAME TO alicia');
my $number = value(q{SELECT owner FROM ia3.task WHERE task = 'orphan'});
like($number, qr/^[0-9]+$/, 'a dropped role is a number');
my $expected = qq(hers alicia {bob,"\\"Mixed Case\\"",$number,-}\nmixed "Mixed Case" {}\norphan $number {});
is(value($tasks), $expected, 'roles are shown by the names that they have now');
my $before = value(sprintf $scores, 'hers');

is(copy_database('postgres', $node, 'again'), '', 'the dump is restored in the same cluster');
is($node->safe_psql('again', $tasks), $expected, 'with all tasks');
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
# whatever role has the number here
my $oid = $other->safe_psql('old', q{SELECT oid FROM pg_roles WHERE rolname = 'guest'});
$other->safe_psql('old', "INSERT INTO ia3.task (task, owner, backbone, template) VALUES ('number', '$oid', 'default', '{}')");
is($other->safe_psql('old', q{SET ROLE guest; SELECT count(*) FROM ia3.task WHERE task = 'number'}), '0', 'an OID of another cluster means nobody');

#
# Subscribers without the roles, in both formats
#
value('CREATE PUBLICATION tasks FOR TABLE ia3.task, ia3.adapter');
my $connstr = $node->connstr . ' dbname=postgres';
for my $binary ('false', 'true')
{
    my $database = "subscriber_$binary";
    $other->safe_psql('postgres', "CREATE DATABASE $database");
    $other->safe_psql($database, "CREATE EXTENSION ia3; CREATE SUBSCRIPTION $database CONNECTION '$connstr'
        PUBLICATION tasks WITH (binary = $binary)");
    $other->poll_query_until($database, q{SELECT count(*) = 2 AND bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel})
        or die 'no initial synchronisation';
    is($other->safe_psql($database, $tasks), $expected, "a subscriber without the roles has all tasks (binary = $binary)");
}
value(q{UPDATE ia3.task SET comment = 'changed'; ALTER ROLE alicia RENAME TO alice; SELECT ia3_revoke('hers', 'bob')});
for my $database ('subscriber_false', 'subscriber_true')
{
    $node->wait_for_catchup($database);
    is($other->safe_psql($database, q{SELECT count(*) || max(owner::text) FILTER (WHERE task = 'hers') FROM ia3.task WHERE comment = 'changed'}),
        '3alice', "$database gets changes and the new name");
    is($other->safe_psql($database, sprintf $scores, 'hers'), $before, "$database scores the same");
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
