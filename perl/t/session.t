use 5.010;
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use File::Temp 'tempdir';
use Socket qw(SOL_SOCKET SO_SNDBUF);
use Sidecar qw(clean_environment decode wait_child);
use Time::HiRes 'time';
use WaferMon;

clean_environment();
my $directory = tempdir(CLEANUP => 1);

sub client {
    my ($sidecar, @option) = @_;
    return WaferMon->new(src => 's', $sidecar->to_session, close_timeout => 0, @option);
}

sub messages { return map { $_->{data}{msg} } @_ }
sub numbers  { return map { $_->{q} } @_ }

# Reads what the sidecar said, as the next call would.
sub listen_to {
    my ($client) = @_;
    $client->{fh} or return;
    WaferMon::_ready($client->{fh}, WaferMon::_now() + 10, 1, 0) or die 'nothing was said';
    $client->_hear($client->{fh});
    return;
}

# The next attempt to connect need not wait for its time.
sub logs {
    my ($client, $msg) = @_;
    $client->{retry_at_s} = 0;
    return $client->log_event('info', $msg);
}

for my $kind ('TCP', 'Unix') {
    my $path = "$directory/$kind.sock";
    my @at   = $kind eq 'Unix' ? (unix => $path) : ();

    subtest "$kind: a session" => sub {
        my $sidecar = Sidecar->new(@at);
        my $client  = client($sidecar);
        my $start   = time;
        ok $client->log_event('info', $_), "logged: $_" for 1 .. 3;
        cmp_ok time - $start, '<', 1, 'without waiting for an answer';
        is $client->state, 'CONNECTED', 'connected';
        my ($hello, @frames) = $sidecar->frames(4);
        is_deeply [ @$hello{qw(v src type q)} ], [ 1, 's', 'hello', undef ], 'hello';
        is_deeply [ keys %{ $hello->{data} } ], ['session'], 'has no secret';
        like $hello->{data}{session}, qr/\A[0-9a-f]{32}\z/, 'but a session';
        is_deeply [ numbers(@frames) ],  [ 1 .. 3 ], 'numbers rise';
        is_deeply [ messages(@frames) ], [ 1 .. 3 ], 'frames come before the welcome';
        is $client->sent, 0, 'nothing is safe yet';
        ok !$client->flush(0), 'which flush tells';
        $sidecar->answer(welcome => 0);
        $sidecar->answer(ack     => 2);
        listen_to($client) while !$client->sent;
        is $client->sent, 2, 'two are';
        is @{ $client->{queue} }, 1, 'and no longer kept';
        $sidecar->answer(ack => 3);
        ok $client->flush(10), 'all are';
        isnt client($sidecar)->{session}, $client->{session}, 'another client has another session';
    };

    subtest "$kind: the sidecar dies and comes back" => sub {
        my $sidecar = Sidecar->new(@at);
        my @errors;
        my $client = client($sidecar, on_error => sub { push @errors, $_[0] });
        $client->log_event('info', $_) for 1 .. 5;
        my $hello = $sidecar->welcome;
        $sidecar->frames(5);
        $sidecar->answer(ack => 2);
        listen_to($client) while $client->sent < 2;
        $sidecar->stop;
        logs($client, $_) for 6, 7;
        is $client->state, 'DISCONNECTED', 'noticed';
        $sidecar->start;
        logs($client, 8);
        my ($again) = $sidecar->frames(1);
        is $again->{data}{session}, $hello->{data}{session}, 'the session is opened again';
        $client->log_event('info', 9);
        is $client->state, 'DISCONNECTED', 'not connected before the welcome';
        ok !IO::Select->new($sidecar->peer)->can_read(0), 'and nothing is sent';
        $sidecar->answer(welcome => 4);
        listen_to($client);
        is $client->sent, 4, 'the welcome covers';
        $client->log_event('info', 10);
        my @frames = $sidecar->frames(6);
        is_deeply [ numbers(@frames) ],  [ 5 .. 10 ], 'the rest goes, in order';
        is_deeply [ messages(@frames) ], [ 5 .. 10 ], 'as it was';
        is $client->state, 'CONNECTED', 'connected';
        $sidecar->answer(ack => 10);
        ok $client->flush(10), 'all are safe';
        is $client->dropped, 0, 'none dropped';
        is_deeply \@errors, ['DISCONNECTED'], 'told once';
    };

    subtest "$kind: a half-written frame" => sub {
        my $sidecar = Sidecar->new(@at, rcvbuf => 4096);
        my $client  = client($sidecar);
        $client->log_event('info', 'first');
        setsockopt $client->{fh}, SOL_SOCKET, SO_SNDBUF, pack 'i', 1 or die "SO_SNDBUF: $!";
        my $count = 1;
        do { $count++; $client->log_event('info', 'x' x 50_000) } until $client->{offset} > 0 || $count > 900;
        cmp_ok $client->{offset}, '>', 0, 'is cut in two';
        $sidecar->welcome;
        $sidecar->hang_up;
        logs($client, 'last');
        $sidecar->welcome(1);
            my @frames;
        while (@frames < $count) {
            $client->flush(0);
            push @frames, $sidecar->frames(1);
        }
        is_deeply [ numbers(@frames) ], [ 2 .. $count + 1 ], 'goes again, whole';
    };
}

subtest 'close' => sub {
    for my $case ([ 'close', 'print $m->close', '0', 'closed' ], [ 'end of the script', '', '', 'exit 0' ]) {
        my ($name, $end, $printed, $reason) = @$case;
        my $sidecar = Sidecar->new;
        my $ended   = $sidecar->start_script("\$m->log_event('info', \$_) for 1, 2; $end");
        my $hello   = $sidecar->welcome;
        my @frames  = $sidecar->frames(2);
        ok !IO::Select->new($sidecar->peer)->can_read(0.1), "$name: no goodbye before all is safe";
        $sidecar->answer(ack => 2);
        my ($goodbye) = $sidecar->frames(1);
        is_deeply [ @$goodbye{qw(type q)}, $goodbye->{data}{reason} ], [ 'goodbye', 3, $reason ], 'goodbye, with a number';
        ok !IO::Select->new($sidecar->peer)->can_read(0.1), 'waits for its receipt';
        $sidecar->answer(ack => 3);
        is_deeply [ $sidecar->lines(1) ], [], 'then ends its side';
        ok syswrite($sidecar->peer, "late\n"), 'and reads until the sidecar ends';
        $sidecar->hang_up;
        is_deeply [ $ended->() ], [ 0, $printed ], 'all safe';
    }
};

subtest 'close over a sidecar that dies and comes back' => sub {
    my $sidecar = Sidecar->new;
    my $ended   = $sidecar->start_script('$m->log_event("info", $_) for 1 .. 3; print $m->close(20)');
    my $hello   = $sidecar->welcome;
    $sidecar->frames(3);
    $sidecar->stop;
    $sidecar->start;
    is $sidecar->welcome(1)->{data}{session}, $hello->{data}{session}, 'the same session';
    is_deeply [ numbers($sidecar->frames(2)) ], [ 2, 3 ], 'sends what is missing';
    $sidecar->answer(ack => 3);
    $sidecar->frames(1);
    $sidecar->stop;
    $sidecar->start;
    $sidecar->welcome(3);
    is +($sidecar->frames(1))[0]{type}, 'goodbye', 'the goodbye, too';
    $sidecar->answer(ack => 4);
    $sidecar->rest;
    is_deeply [ $ended->() ], [ 0, 0 ], 'all safe';
};

subtest 'close without receipts' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar);
    $client->log_event('info', $_) for 1 .. 5;
    $sidecar->welcome;
    $sidecar->answer(ack => 2);
    my $start = time;
    is $client->close(0.2), 3, 'tells how many are not acknowledged';
    cmp_ok time - $start, '<', 2, 'within its bound';
    is $client->dropped, 3, 'which count as dropped';
    is_deeply [ map { $_->{type} } $sidecar->rest ], [ ('event') x 5 ], 'no goodbye';
};

subtest 'the end of a script' => sub {
    my $sidecar = Sidecar->new;
    my $start   = time;
    my $ended   = $sidecar->start_script('$m->log_event("info", 1)', close_timeout => 0.3);
    is_deeply [ $ended->() ], [ 0, '' ], 'ends, though nobody answers';
    cmp_ok time - $start, '<', 5, 'within the bound';
    $sidecar->stop;
    $start = time;
    $ended = $sidecar->start_script('$m->log_event("info", 1)', close_timeout => 30);
    is_deeply [ $ended->() ], [ 0, '' ], 'and with nobody there';
    cmp_ok time - $start, '<', 5, 'at once';
};

subtest 'a secret' => sub {
    my $sidecar = Sidecar->new;
    my @errors;
    my $client = client($sidecar, secret => "s3cr\"et", on_error => sub { push @errors, "@_" });
    $client->log_event('info', 1);
    my ($hello) = $sidecar->frames(1);
    is $hello->{data}{secret}, 's3cr"et', 'goes in the hello';
    ok !IO::Select->new($sidecar->peer)->can_read(0), 'and nothing else before the welcome';
    is $client->state, 'DISCONNECTED', 'not connected yet';
    for my $round (1 .. 3) {
        syswrite $sidecar->peer, qq({"v":1,"type":"error","reason":"auth"}\n);
        $sidecar->hang_up;
        listen_to($client);
        is $client->state, 'DISCONNECTED', 'refused';
        logs($client, 'more');
        is_deeply [ map { $_->{type} } $sidecar->frames(1) ], ['hello'], 'the next attempt says hello again';
    }
    is scalar(@errors), 1, 'told once';
    like $errors[0], qr/\ADISCONNECTED .*refuses this client: wrong secret/, 'why';
    unlike $errors[0], qr/s3cr/, 'without telling it';
    cmp_ok $client->{backoff_s}, '>', 0.7, 'the delay grows';
    $sidecar->answer(welcome => 0);
    listen_to($client);
    is $client->state, 'CONNECTED', 'accepted at last';
    $client->log_event('info', 2);
    is_deeply [ messages($sidecar->frames(5)) ], [ 1, ('more') x 3, 2 ], 'nothing is lost';
    local $ENV{MONITORING_SECRET} = 'of the environment';
    is client($sidecar)->{secret}, 'of the environment', 'MONITORING_SECRET';
    is client($sidecar, secret => 'x')->{secret}, 'x', 'an argument goes before it';
};

subtest 'a sidecar that asks for a secret' => sub {
    my $sidecar = Sidecar->new;
    my @errors;
    my $client = client($sidecar, on_error => sub { push @errors, $_[1] });
    $client->log_event('info', 1);
    $sidecar->frames(2);
    syswrite $sidecar->peer, qq({"v":1,"type":"error","reason":"auth"}\n);
    listen_to($client);
    like "@errors", qr/it asks for a secret/, 'told';
    $sidecar->hang_up;
    logs($client, 2);
    is_deeply [ map { $_->{type} } $sidecar->frames(1) ], ['hello'], 'no plain sending';
};

subtest 'silence' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar);
    my $ahead_s = 0;
    my $now     = \&WaferMon::_now;
    no warnings 'redefine';
    local *WaferMon::_now = sub { $now->() + $ahead_s };
    $client->log_event('info', 1);
    $ahead_s += 9;
    $client->log_event('info', 2);
    is $client->state, 'CONNECTED', 'no welcome for 9 s';
    $sidecar->frames(3);
    $ahead_s += 2;
    $client->log_event('info', 3);
    is_deeply [ map { $_->{type} } $sidecar->frames(1) ], [], 'for 10 s: closed';
    $sidecar->hang_up;
    $client->log_event('info', 4);
    $sidecar->welcome(2);
    listen_to($client);
    $client->log_event('info', 5);
    is_deeply [ messages($sidecar->frames(3)) ], [ 3, 4, 5 ], 'and opened again';
    $ahead_s += 9;
    $sidecar->answer(ack => 4);
    listen_to($client);
    $ahead_s += 9;
    $client->log_event('info', 6);
    is_deeply [ messages($sidecar->frames(1)) ], [6], 'a receipt within 10 s';
    $ahead_s += 2;
    logs($client, 7);
    is_deeply [ $sidecar->lines(1) ], [], 'none for 10 s: closed';
    $sidecar->hang_up;
    logs($client, 8);
    $sidecar->welcome(6);
    ok !$client->flush(0.05), 'nothing acknowledged';
    is_deeply [ messages($sidecar->frames(2)) ], [ 7, 8 ], 'and opened again';
    $sidecar->answer(ack => 8);
    ok $client->flush(10), 'all safe';
    $ahead_s += 3600;
    $client->log_event('info', 9);
    is_deeply [ messages($sidecar->frames(1)) ], [9], 'who owes nothing may be silent';
};

subtest 'a full buffer: drop_newest keeps what it took' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar, buffer => 5, overflow => 'drop_newest');
    is scalar(grep { $client->log_event('info', $_) } 1 .. 8), 5, 'takes no more than it can keep';
    is $client->state, 'OVERFLOW', 'state';
    $sidecar->welcome;
    is_deeply [ numbers($sidecar->frames(5)) ], [ 1 .. 5 ], 'what it took';
    $sidecar->answer(ack => 2);
    listen_to($client) while $client->sent < 2;
    ok $client->log_event('info', 9), 'a receipt makes room';
    is +($sidecar->frames(1))[0]{data}{msg}, 9, 'it goes';
    $sidecar->answer(ack => 5);
    ok !$client->flush(0.05), 'the rest is acknowledged';
    is_deeply +($sidecar->frames(1))[0]{data}{ctx}, { dropped => 3 }, 'the count goes out';
    $sidecar->answer(ack => 7);
    ok $client->flush(10), 'and is safe';
    is $client->state,   'CONNECTED', 'state';
    is $client->dropped, 3,           'dropped';
    is $client->close(0.1), 0, 'but what it took is safe';
};

subtest 'a full buffer: a call waits for a receipt as long as write_timeout' => sub {
    my $sidecar = Sidecar->new;
    my $ended   = $sidecar->start_script('print join ",", map { 0 + $m->log_event("info", $_) } 1 .. 3; print ",", $m->close',
        buffer => 2, overflow => 'drop_newest', write_timeout => 20);
    $sidecar->welcome;
    $sidecar->frames(2);
    $sidecar->answer(ack => 1);
    $sidecar->serve;
    is_deeply [ $ended->() ], [ 0, '1,1,1,0' ], 'nothing is dropped';
};

subtest 'a full buffer: drop_oldest lets go of what is written' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar, buffer => 5);
    ok $client->log_event('info', $_), "logged: $_" for 1 .. 12;
    is @{ $client->{queue} }, 5, 'bounded';
    is $client->dropped, 0, 'but none is lost yet';
    $sidecar->welcome;
    is_deeply [ numbers($sidecar->frames(12)) ], [ 1 .. 12 ], 'all are written';
    $sidecar->answer(ack => 3);
    listen_to($client) while $client->sent < 3;
    is $client->{let_go}, 4, 'four of them uncertain';
    ok !$client->flush(0), 'which flush tells';
    $sidecar->hang_up;
    logs($client, $_) for 13, 14;
    $sidecar->welcome(5);
    listen_to($client);
    is $client->dropped, 4, 'the welcome tells which are lost';
    is $client->state, 'OVERFLOW', 'state';
    $client->log_event('info', 15);
    is_deeply [ numbers($sidecar->frames(6)) ], [ 10 .. 15 ], 'the rest goes again';
    $sidecar->answer(ack => 15);
    ok !$client->flush(0.05), 'the rest is acknowledged';
    is_deeply +($sidecar->frames(1))[0]{data}{ctx}, { dropped => 4 }, 'the count goes out';
    $sidecar->answer(ack => 16);
    ok $client->flush(10), 'and is safe';
    is $client->close(0.1), 4, 'close tells of all that were not acknowledged';
};

subtest 'answers cut anywhere, and others' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar);
    $client->log_event('info', $_) for 1 .. 3;
    my $said = qq({"v":1,"type":"news"}\nnot even JSON\n\n{ "q" : 0, "type" : "welcome" }\r\n{"type":"ack","q":1}\n{"type":"ack","q":99}\n);
    for my $byte (split //, $said) {
        syswrite $sidecar->peer, $byte;
        listen_to($client);
    }
    is $client->sent, 3, 'understood, and no more taken than was written';
    is $client->state, 'CONNECTED', 'connected';
};

subtest 'the limit to the byte' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar);
    $client->log_event('info', '');
    my $bare = 1 + length +($sidecar->lines(2))[1];
    my $room = 65_536 - $bare + length(',"q":1') - length ',"q":9007199254740991';
    ok $client->log_event('info', 'x' x $room), 'a frame that leaves room for the largest number';
    is length +($sidecar->lines(1))[0], $bare + $room - 1, 'arrives';
    ok !$client->log_event('info', 'x' x ($room + 1)), 'a longer one is refused';
    is $client->refused, 1, 'and counted';
};

subtest 'fork' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar);
    $client->log_event('info', 'parent');
    my $hello = $sidecar->welcome;
    $sidecar->frames(1);
    my $parent = delete $sidecar->{peer};
    defined(my $pid = fork) or die "fork: $!";
    if (!$pid) {
        Test::More->builder->no_ending(1);
        $client->{close_timeout} = 20;
        $client->log_event('info', 'child');
        exit($client->close);
    }
    my $theirs = $sidecar->welcome;
    isnt $theirs->{data}{session}, $hello->{data}{session}, 'the child has a session of its own';
    ok exists $theirs->{data}{goodbye} && !$theirs->{data}{goodbye}, 'and says that no goodbye will come';
    ok !exists $hello->{data}{goodbye}, 'of the parent one will';
    my @frames = $sidecar->serve;
    is wait_child($pid), 0, 'and closes it';
    is_deeply [ map { [ @$_{qw(type q)} ] } @frames ], [ [ 'event', 1 ] ], 'with nothing else';
    @$sidecar{qw(peer buffer)} = ($parent, '');
    $client->log_event('info', 'parent');
    is_deeply [ numbers($sidecar->frames(1)) ], [2], "the parent's goes on";
};

subtest 'a signal handler that logs' => sub {
    my $sidecar = Sidecar->new;
    my $client  = client($sidecar, buffer => 100_000);
    my $beats   = 0;
    my ($welcomed, @frames);
    local $SIG{ALRM} = sub { $beats++; $client->log_event('info', 'beat') };
    Time::HiRes::setitimer(Time::HiRes::ITIMER_REAL(), 0.001, 0.001);
    for my $round (1 .. 50) {
        $client->log_event('info', 'x' x 100) for 1 .. 100;
        $sidecar->welcome if !$welcomed++;
        push @frames, $sidecar->frames(100);
        $sidecar->answer(ack => $frames[-1]{q});
    }
    Time::HiRes::setitimer(Time::HiRes::ITIMER_REAL(), 0);
    alarm 60;
    $client->flush(0.01);
    push @frames, $sidecar->frames(5000 + $beats - @frames);
    $sidecar->answer(ack => $frames[-1]{q});
    ok $client->flush(10), 'all safe';
    ok $beats > 5, "$beats signals";
    is_deeply [ numbers(@frames) ], [ 1 .. 5000 + $beats ], 'every frame whole, and in order';
};

done_testing;
