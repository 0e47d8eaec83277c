use 5.010;
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Config;
use Sidecar qw(clean_environment decode wait_child);
use WaferMon;

clean_environment();

# Runs a script of its own against the sidecar: its exit status, and what it printed.
sub run_script {
    my ($sidecar, $body) = @_;
    return $sidecar->start_script($body, delivery => 'send')->();
}

for my $case (
    [ 'falls off the end',   '',                      0,       'exit 0' ],
    [ 'exit 3',              'exit 3;',               3 << 8,  'exit 3' ],
    [ 'die',                 '$! = 0; die "broken\n";',       255 << 8, 'exit 255' ],
    [ 'two clients',         'our $n = WaferMon->new(src => "other"); ', 0, 'exit 0' ],
    [ 'a client in a global', 'our $g = $m; undef $m;', 0,      'exit 0' ],
    [ 'let go of before',    'undef $m;',             0,       'exit 0' ],
    [ 'a client of a sub',   'sub f { my $s = WaferMon->new(src => "sub", delivery => "send"); $s->heartbeat } undef $m; f();', 0, 'exit 0' ],
    [ 'close',               '$m->close;',            0,       'closed' ],
    [ 'a closure keeps it',  'our $c; { my $k = $m; $c = sub { $k } } undef $m;', 0, 'exit 0' ],
    [ 'END of the host logs', 'END { $m->log_event("info", "from END") }', 0, 'exit 0' ],
    [ 'exec of another program in a child', 'system $^X, "-e", "exit 0";', 0, 'exit 0' ],
) {
    my ($name, $body, $exit, $reason) = @$case;
    subtest "goodbye: $name" => sub {
        my $sidecar = Sidecar->new;
        my ($status, $printed) = run_script($sidecar, "\$m->log_event('info', 'one'); $body");
        is $status, $exit, 'exit status';
        is $printed, $name eq 'die' ? "broken\n" : '', 'prints nothing of its own';
        my @frames = $sidecar->rest;
        is $frames[0]{data}{msg}, 'one', 'the message';
        is $frames[-1]{type}, 'goodbye', 'goodbye';
        is $frames[-1]{data}{reason}, $reason, 'reason';
        is scalar(grep { $_->{type} eq 'goodbye' } @frames), 1, 'once';
    };
}

subtest 'clients that are let go of' => sub {
    my $sidecar = Sidecar->new;
    run_script($sidecar, 'for (1 .. 20) { my $n = WaferMon->new(src => $_, delivery => "send"); $n->heartbeat }');
    my %reasons;
    for (1 .. 20) {
        my ($heartbeat, $goodbye) = $sidecar->rest;
        $reasons{ $goodbye->{data}{reason} }++;
    }
    is_deeply \%reasons, { closed => 5, 'exit 0' => 15 }, 'all say goodbye, and few wait for the end';
};

subtest 'no goodbye of a client that never spoke' => sub {
    my $sidecar = Sidecar->new;
    run_script($sidecar, '');
    ok !$sidecar->is_called, 'no connection';
};

subtest 'a sidecar that is away does not keep a script' => sub {
    my $sidecar = Sidecar->new;
    $sidecar->stop;
    my $start = time;
    my ($status, $printed) = run_script($sidecar, '$m->log_event("info", $_) for 1 .. 10;');
    is $status, 0, 'exit status';
    is $printed, '', 'not a word';
    cmp_ok time - $start, '<=', 1, 'at once';
    ($status, $printed) = run_script($sidecar, '$ENV{WAFERMON_DEBUG} = 1; $m->log_event("info", $_) for 1 .. 10;');
    like $printed, qr/\Awafermon: script: DISCONNECTED: 127\.0\.0\.1:\d+: .+\nwafermon: script: CLOSED: exit 0\n\z/,
        'WAFERMON_DEBUG: a line a state';
};

subtest 'closed standard handles' => sub {
    my $sidecar = Sidecar->new;
    run_script($sidecar,
        'close STDIN; close STDOUT; close STDERR; $m->log_event("info", "one"); open STDOUT, ">", "/dev/null"; print "x" x 9999;');
    is_deeply [ map { $_->{type} } $sidecar->rest ], [qw(event goodbye)], 'no print gets into the stream';
};

subtest 'fork' => sub {
    my $sidecar = Sidecar->new;
    my $client  = WaferMon->new(src => 'fork', $sidecar->to);
    $client->log_event('info', 'parent 1');
    my $parent_peer = $sidecar->peer;
    is +($sidecar->frames(1))[0]{data}{msg}, 'parent 1', 'before';

    defined(my $pid = fork) or die "fork: $!";
    if (!$pid) {
        # Quiet children say no goodbye for their parent.
        { local $SIG{__WARN__}; exit 0 }
    }
    wait_child($pid);
    defined($pid = fork) or die "fork: $!";
    if (!$pid) {
        Test::More->builder->no_ending(1);
        my $sent = $client->sent;
        $client->log_event('info', 'child');
        exit($client->sent == 1 ? 7 : 8);
    }
    is wait_child($pid) >> 8, 7, 'the child counts for itself';
    $client->log_event('info', 'parent 2');
    is_deeply [ map { $_->{data}{msg} } $sidecar->frames(1) ], ['parent 2'], "the parent's connection is its own";
    delete @$sidecar{qw(peer buffer)};
    is_deeply [ map { [ $_->{type}, $_->{data}{msg} // $_->{data}{reason} ] } $sidecar->rest ],
        [ [ 'event', 'child' ] ], 'the child has another, and says no goodbye';
    $sidecar->{peer} = $parent_peer;
    $sidecar->{buffer} = '';
    $client->close;
    is_deeply [ map { $_->{data}{reason} } $sidecar->rest ], ['closed'], "one goodbye of the parent's";
};

subtest 'fork with a full buffer' => sub {
    my $sidecar = Sidecar->new;
    $sidecar->stop;
    my $client = WaferMon->new(src => 'fork', $sidecar->to, buffer => 5, close_timeout => 0);
    $client->log_event('info', $_) for 1 .. 8;
    $sidecar->start;
    defined(my $pid = fork) or die "fork: $!";
    if (!$pid) {
        Test::More->builder->no_ending(1);
        $client->log_event('info', 'child');
        exit 0;
    }
    wait_child($pid);
    is_deeply [ map { $_->{data}{msg} // $_->{data}{reason} } $sidecar->rest ], ['child'],
        "the child has nothing of the parent's";
    ok $client->flush(10), 'flush';
    is_deeply [ map { $_->{data}{msg} } $sidecar->frames(6) ], [ 4 .. 8, 'messages dropped' ], 'the parent has';
};

subtest 'many children at once' => sub {
    my $sidecar = Sidecar->new;
    my $client  = WaferMon->new(src => 'fork', $sidecar->to);
    $client->log_event('info', 'parent');
    my $span = $client->start_span('parent');
    my @pids;
    for my $child (1 .. 8) {
        defined(my $pid = fork) or die "fork: $!";
        push @pids, $pid and next if $pid;
        Test::More->builder->no_ending(1);
        $client->start_span("child $child")->end;
        $client->log_event('info', 'x' x 2000) for 1 .. 50;
        exit 0;
    }
    $span->end;
    $client->close;
    my (%sid, %parent, $frames);
    for (0 .. 8) {
        for my $frame ($sidecar->rest) {    # dies over a torn line
            $frames++;
            next if $frame->{type} ne 'span';
            $sid{ $frame->{sid} }++;
            $parent{ $frame->{pid} // 'none' }++;
            is $frame->{tid}, $span->tid, "trace of '$frame->{data}{name}'";
        }
    }
    wait_child($_) for @pids;
    is $frames, 3 + 8 * 51, 'every frame, and one goodbye';
    is scalar(keys %sid), 9, 'no span id twice';
    is_deeply \%parent, { none => 1, $span->sid => 8 }, "children of the parent's span, which ends once";
};

subtest 'threads' => sub {
    plan skip_all => 'this perl has none' if !$Config{usethreads};
    my $sidecar = Sidecar->new;
    my ($status, $printed) = run_script($sidecar,
        'use threads; $m->log_event("info", "main 1"); threads->create(sub { $m->log_event("info", "thread"); 1 })->join;'
            . ' $m->log_event("info", "main 2");');
    is $status, 0, 'exit status';
    is_deeply [ map { $_->{data}{msg} // $_->{data}{reason} } $sidecar->rest ], [ 'main 1', 'main 2', 'exit 0' ], 'the main thread';
    is_deeply [ map { $_->{data}{msg} // $_->{data}{reason} } $sidecar->rest ], [ 'thread', 'closed' ], 'the other has a connection of its own';
};

subtest 'a die of an alarm of the host passes through' => sub {
    my $sidecar = Sidecar->new;
    $sidecar->stop;
    my $client = WaferMon->new(src => 'alarm', $sidecar->to, close_timeout => 0);
    $client->log_event('info', 'one');
    local $SIG{ALRM} = sub { die "timeout\n" };
    my $ended = eval { alarm 1; $client->flush(20); 1 };
    is $@, "timeout\n", 'it does';
    alarm 60;
    $sidecar->start;
    local $SIG{ALRM} = 'DEFAULT';
    ok $client->flush(10), 'and the client still works';
    is_deeply [ map { $_->{data}{msg} } $sidecar->frames(1) ], ['one'], 'with nothing lost';
};

done_testing;
