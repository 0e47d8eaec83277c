use 5.010;
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use File::Temp 'tempdir';
use Socket qw(SOL_SOCKET SO_SNDBUF);
use Sidecar qw(clean_environment decode);
use Time::HiRes 'time';
use WaferMon;

clean_environment();
my $directory = tempdir(CLEANUP => 1);

sub messages {
    return map { $_->{data}{msg} } @_;
}

# What the kernel takes of a connection, so that a message can be cut in two.
sub small_buffer {
    my ($client) = @_;
    setsockopt $client->{fh}, SOL_SOCKET, SO_SNDBUF, pack 'i', 1 or die "SO_SNDBUF: $!";
    return;
}

# Logs until a frame is half-written; how many calls that took.
sub stuff {
    my ($client, $filling) = @_;
    my $calls = 0;
    do { $calls++; $client->log_event('info', "$calls $filling") } until $client->{offset} || $calls > 5000;
    $client->{offset} or die 'nothing was cut in two';
    return $calls;
}

for my $kind ('TCP', 'Unix') {
    my $path = "$directory/$kind.sock";
    subtest "$kind: states, hello and goodbye" => sub {
        my $sidecar = Sidecar->new($kind eq 'Unix' ? (unix => $path) : ());
        my $client  = WaferMon->new(src => 'c', $sidecar->to);
        is $client->state, 'DISCONNECTED', 'no connection before the first message';
        ok !$sidecar->is_called, 'none at all';
        ok $client->log_event('info', 'one'), 'logged';
        is $client->state, 'CONNECTED', 'connected';
        is_deeply [ messages($sidecar->frames(1)) ], ['one'], 'arrives';
        is $client->close, 0, 'close hands over everything';
        is $client->state, 'CLOSED', 'closed';
        my @rest = $sidecar->rest;
        is scalar @rest, 1, 'one frame at the end';
        is_deeply [ @{ $rest[0] }{qw(v src type data)} ], [ 1, 'c', 'goodbye', { reason => 'closed' } ], 'goodbye';
        ok !$client->log_event('info', 'late'), 'a message after close is dropped';
        is $client->dropped, 1, 'and counted';
        is $client->close, 0, 'close twice';
        ok $client->flush, 'flush after close';
        is $client->sent, 2, 'sent';
    };

    subtest "$kind: the sidecar goes away and comes back" => sub {
        my $sidecar = Sidecar->new($kind eq 'Unix' ? (unix => $path) : ());
        my @errors;
        my $client = WaferMon->new(src => 'c', $sidecar->to, on_error => sub { push @errors, "@_" });
        $client->log_event('info', 'one');
        $sidecar->frames(1);
        $sidecar->stop;
        ok $client->log_event('info', $_), "kept: $_" for 2 .. 4;
        is $client->state, 'DISCONNECTED', 'noticed before a write';
        is scalar @errors, 1, 'told once';
        like $errors[0], qr/\ADISCONNECTED /, 'what';
        $sidecar->start;
        ok $client->flush(10), 'flush connects again';
        is $client->state, 'CONNECTED', 'connected';
        is_deeply [ messages($sidecar->frames(3)) ], [ 2 .. 4 ], 'nothing is lost';

        # Closed by the sidecar, which goes on listening: the next call finds out and connects at once.
        $sidecar->hang_up;
        select undef, undef, undef, 0.01 while $client->{fh} && !defined recv $client->{fh}, my $byte, 1, Socket::MSG_PEEK();
        $client->{retry_at_s} = 0;
        $client->log_event('info', 'five');
        is_deeply [ messages($sidecar->frames(1)) ], ['five'], 'not lost to the dead connection';
        is $client->dropped, 0, 'none dropped';
    };

    subtest "$kind: a half-written frame" => sub {
        my $sidecar = Sidecar->new($kind eq 'Unix' ? (unix => $path) : (rcvbuf => 4096));
        my $client  = WaferMon->new(src => 'c', $sidecar->to, buffer => 10_000);
        $client->log_event('info', 'first');
        small_buffer($client);
        my $calls = stuff($client, 'x' x 50_000);
        $client->log_event('info', 'last');
        my @frames = $sidecar->frames_of($client);
        push @frames, $sidecar->frames($calls + 2 - @frames);
        is_deeply [ map { (split / /)[0] } messages(@frames) ], [ 'first', 1 .. $calls, 'last' ], 'all, whole, in order';

        # The connection breaks in the middle: the new one gets the whole frame.
        my $more = stuff($client, 'y' x 50_000);
        $sidecar->hang_up;
        ok $client->{offset} > 0, 'a frame is cut in two';
        my $unsent = @{ $client->{queue} };
        my $start  = time;
        # As the sidecar reads nothing yet, not all of it goes.
        $client->{retry_at_s} = 0;
        $client->log_event('info', 'z');
        cmp_ok time - $start, '<', 0.5, 'the call does not wait';
        @frames = $sidecar->frames_of($client);
        push @frames, $sidecar->frames($unsent + 1 - @frames);
        is_deeply [ map { (split / /)[0] } messages(@frames) ], [ $more - $unsent + 1 .. $more, 'z' ],
            'from the frame that was cut, whole';
    };
}

subtest 'no SIGPIPE, and no SIGPIPE handler' => sub {
    my $sidecar = Sidecar->new;
    local $SIG{PIPE} = 'DEFAULT';
    my $client = WaferMon->new(src => 'c', $sidecar->to, close_timeout => 0);
    $client->log_event('info', 'one');
    $sidecar->frames(1);

    # Straight into a connection that was reset, past the look for its end.
    $sidecar->hang_up;
    no warnings 'redefine';
    for (1 .. 3) {
        send $client->{fh}, 'x', Socket::MSG_NOSIGNAL() if $client->{fh};
        $client->log_event('info', 'two');
    }
    is $SIG{PIPE}, 'DEFAULT', 'untouched';
};

subtest 'what a sidecar says unasked does not hurt' => sub {
    my $sidecar = Sidecar->new;
    my $client  = WaferMon->new(src => 'c', $sidecar->to);
    $client->log_event('info', 'one');
    syswrite $sidecar->peer, "hello\n";
    $client->log_event('info', $_) for 2 .. 1000;
    $client->close;
    is scalar(my @frames = $sidecar->rest), 1001, 'everything arrives';
};

subtest 'overflow' => sub {
    for my $overflow ('drop_oldest', 'drop_newest') {
        my $sidecar = Sidecar->new;
        $sidecar->stop;
        my @errors;
        my $client = WaferMon->new(
            src      => 'c', $sidecar->to,
            buffer   => 10,
            overflow => $overflow,
            on_error => sub { push @errors, $_[0]; die 'not for the host' },
        );
        my $kept = grep { $client->log_event('info', $_) } 1 .. 25;
        is $kept, $overflow eq 'drop_oldest' ? 25 : 10, "$overflow: accepted";
        is $client->state,   'OVERFLOW', 'state';
        is $client->dropped, 15,         'dropped';
        is_deeply \@errors, [ 'DISCONNECTED', 'OVERFLOW' ], 'one warning each';
        $sidecar->start;
        ok $client->flush(10), 'flush';
        is $client->state, 'CONNECTED', 'connected again';
        my @frames = $sidecar->frames(11);
        my $report = pop @frames;
        is_deeply [ messages(@frames) ], $overflow eq 'drop_oldest' ? [ 16 .. 25 ] : [ 1 .. 10 ], 'what is kept';
        is $report->{type}, 'event', 'then the report';
        is $report->{data}{level}, 'warn', 'is a warning';
        is_deeply $report->{data}{ctx}, { dropped => 15 }, 'with the count';
        $client->log_event('info', 'after');
        $client->close;
        my @rest = $sidecar->rest;
        is_deeply [ map { $_->{type} } @rest ], [ 'event', 'goodbye' ], 'no second report';
        is $client->dropped, 15, 'the counter stays';
    }
};

subtest 'overflow over a sidecar that does not read' => sub {
    my $sidecar = Sidecar->new(rcvbuf => 4096);
    my $client  = WaferMon->new(src => 'c', $sidecar->to, buffer => 5);
    $client->log_event('info', 'first');
    small_buffer($client);
    my $calls = stuff($client, 'x' x 60_000);
    my $start = time;
    $client->log_event('info', "more $_") for 1 .. 1000;
    cmp_ok time - $start, '<', 2, '1000 calls do not wait for it';
    is $client->state, 'OVERFLOW', 'state';
    my $dropped = $client->dropped;
    my @frames  = $sidecar->frames_of($client);
    $client->close;
    push @frames, $sidecar->rest;
    my @got = map { (split / /)[-1] =~ /x/ ? 'x' : $_ } messages(grep { $_->{type} eq 'event' } @frames);
    is_deeply \@got, [ 'first', ('x') x $calls, (map {"more $_"} 997 .. 1000), 'messages dropped' ],
        'the half-written frame is not dropped';
    is $frames[-2]{data}{ctx}{dropped}, $dropped, 'reported';
    is $dropped, 996, 'dropped';
};

subtest 'nobody there' => sub {
    my $sidecar = Sidecar->new;
    $sidecar->stop;
    my $client = WaferMon->new(src => 'c', $sidecar->to);
    my $start  = time;
    $client->log_event('info', $_) for 1 .. 500;
    cmp_ok time - $start, '<', 1, '500 calls cost nothing much';
    ok !$client->flush(0.2), 'flush tells';
    is $client->close(0.3), 500, 'close reports what it could not hand over';
    cmp_ok time - $start, '<', 3, 'within the bound';
    is $client->dropped, 500, 'counted';
    {
        $start = time;
        my $silent = WaferMon->new(src => 'c', $sidecar->to);
    }
    cmp_ok time - $start, '<', 0.5, 'a client that said nothing has no goodbye to say';
};

subtest 'backoff' => sub {
    my $sidecar = Sidecar->new;
    $sidecar->stop;
    my $client = WaferMon->new(src => 'c', $sidecar->to, close_timeout => 0);
    my $now    = 1000;
    no warnings 'redefine';
    local *WaferMon::_now = sub { $now };
    my ($attempts, $last, @waits) = (0, $now);
    my $socket = \&WaferMon::_socket;
    local *WaferMon::_socket = sub { push @waits, $now - $last; $last = $now; goto &$socket };
    while ($now < 2000) {
        $client->log_event('info', 'x');
        $now += 0.01;
    }
    my $cap = 0.1;
    shift @waits;
    for my $wait (@waits[ 0 .. 9 ]) {
        cmp_ok $wait, '<=', $cap + 0.02, "at most $cap s";
        $cap = $cap * 2 < 30 ? $cap * 2 : 30;
    }
    is scalar(grep { $_ > 30.02 } @waits), 0, 'never longer than 30 s';
    cmp_ok scalar @waits, '<', 250, scalar(@waits) . ' attempts in 1000 s';
};

subtest 'manners' => sub {
    my $sidecar = Sidecar->new;
    my $client  = WaferMon->new(src => 'c', $sidecar->to);
    my %before  = %SIG;
    $! = 2;
    $? = 3;
    $@ = 'mine';
    $_ = 'topic';
    srand 1;
    my $expected = rand;
    srand 1;
    { my $span = $client->start_span('s'); $client->log_event('info', 'x', { a => [1] }); $client->log_resource }
    is 0 + $!, 2, '$!';
    is $?, 3, '$?';
    is $@, 'mine', '$@';
    is $_, 'topic', '$_';
    is rand, $expected, 'the sequence of rand';
    is_deeply \%SIG, \%before, '%SIG';
    require Fcntl;
    ok fcntl($client->{fh}, Fcntl::F_GETFD(), 0) & Fcntl::FD_CLOEXEC(), 'closed on exec';
    $? = 0;
};

subtest 'a signal handler that logs' => sub {
    my $sidecar = Sidecar->new;
    my $client  = WaferMon->new(src => 'c', $sidecar->to, buffer => 100_000);
    my $beats   = 0;
    local $SIG{ALRM} = sub { $beats++; $client->log_event('info', 'beat') };
    Time::HiRes::setitimer(Time::HiRes::ITIMER_REAL(), 0.001, 0.001);
    my @frames;
    for my $round (1 .. 50) {
        $client->log_event('info', 'x' x 100) for 1 .. 100;
        push @frames, $sidecar->frames(100);
    }
    Time::HiRes::setitimer(Time::HiRes::ITIMER_REAL(), 0);
    $client->close(10);
    push @frames, $sidecar->rest;
    ok $beats > 5, "$beats signals";
    is scalar(@frames), 5000 + $beats + 1, 'every frame whole, and none twice';
    alarm 60;
};

done_testing;
