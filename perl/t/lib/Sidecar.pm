package Sidecar;

# A listener in the test's own process: it accepts, reads and answers when the test says so, and so stands for a sidecar
# that is slow, silent, gone or back again. Every wait is bounded.

use 5.010;
use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP;
use Socket qw(SOL_SOCKET SO_RCVBUF SOCK_STREAM);

our @EXPORT_OK = qw(clean_environment decode wait_child);

my $WAIT_S = 10;

# As the user of the tests may have some of these, and the alarm ends a test that hangs.
sub clean_environment {
    delete @ENV{ grep {/\A(?:MONITORING_|WAFERMON_|TRACEPARENT\z)/} keys %ENV };
    alarm 60;
    return;
}

sub decode { return JSON::PP->new->utf8->decode($_[0]) }

sub wait_child {
    my ($pid) = @_;
    waitpid $pid, 0;
    return $?;
}

sub new {
    my ($class, %option) = @_;
    my $self = bless {%option}, $class;
    $self->start;
    return $self;
}

sub start {
    my ($self) = @_;
    unlink $self->{unix} if $self->{unix};
    $self->{listener} =
        $self->{unix}
        ? IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $self->{unix}, Listen => 64)
        : IO::Socket::INET->new(Listen => 64, LocalAddr => '127.0.0.1', LocalPort => $self->{port} || 0, ReuseAddr => 1);
    $self->{listener} or die "listen: $!";
    # Before listen() would be the place, but accepted sockets inherit it all the same.
    setsockopt $self->{listener}, SOL_SOCKET, SO_RCVBUF, pack 'i', $self->{rcvbuf} if $self->{rcvbuf};
    $self->{port} = $self->{listener}->sockport if !$self->{unix};
    return;
}

# Gone: neither listening nor connected.
sub stop {
    my ($self) = @_;
    close delete $self->{listener};
    unlink $self->{unix} if $self->{unix};
    $self->hang_up;
    return;
}

sub hang_up {
    my ($self) = @_;
    close $self->{peer} if $self->{peer};
    delete @$self{qw(peer buffer)};
    return;
}

# Arguments of a client: of one that asks for no receipts, and of one that does.
sub to { my ($self) = @_; return ($self->to_session, delivery => 'send') }

sub to_session {
    my ($self) = @_;
    return $self->{unix} ? (unix => $self->{unix}) : (host => '127.0.0.1', port => $self->{port});
}

sub peer {
    my ($self) = @_;
    return $self->{peer} if $self->{peer};
    IO::Select->new($self->{listener})->can_read($WAIT_S) or die 'nobody connects';
    $self->{buffer} = '';
    return $self->{peer} = $self->{listener}->accept;
}

sub is_called { my ($self, $wait_s) = @_; return IO::Select->new($self->{listener})->can_read($wait_s // 0) ? 1 : 0 }

# The next lines of the present connection, without their ends; fewer at its end.
sub lines {
    my ($self, $count) = @_;
    my $peer = $self->peer;
    my @lines;
    while (1) {
        push @lines, $1 while @lines < $count && $self->{buffer} =~ s/\A([^\n]*)\n//;
        return @lines if @lines >= $count;
        if (!IO::Select->new($peer)->can_read($WAIT_S)) {
            next if $!{EINTR};
            die 'nothing comes: have ' . @lines . " of $count lines";
        }
        my $read = sysread $peer, $self->{buffer}, 65_536, length $self->{buffer};
        return @lines if !$read && !(!defined $read && $!{EINTR});
    }
}

# Reads as the client flushes, as a frame that is longer than the kernel's buffers needs.
sub frames_of {
    my ($self, $client) = @_;
    my $deadline = time + $WAIT_S;
    my $done;
    do {
        $done = $client->flush(0);
        while (IO::Select->new($self->peer)->can_read($done ? 0 : 0.01)) {
            sysread $self->peer, $self->{buffer}, 1 << 20, length $self->{buffer} or last;
        }
        die 'the client does not come to an end' if time > $deadline;
    } until $done;
    return $self->frames($self->{buffer} =~ tr/\n//);
}

sub frames { my ($self, $count) = @_; return map { decode($_) } $self->lines($count) }

sub answer {
    my ($self, $type, $q) = @_;
    syswrite $self->peer, qq({"v":1,"type":"$type","q":$q,"level":"disk"}\n);
    return;
}

# The hello of a new connection, welcomed.
sub welcome {
    my ($self, $q) = @_;
    my ($hello) = $self->frames(1);
    $self->answer(welcome => $q // 0);
    return $hello;
}

# Acknowledges each frame until the client hangs up; all of them.
sub serve {
    my ($self) = @_;
    my @frames;
    while (my ($frame) = $self->frames(1)) {
        push @frames, $frame;
        $self->answer(ack => $frame->{q});
    }
    $self->hang_up;
    return @frames;
}

# Starts a script with a client $m in a process of its own, to which the test can answer meanwhile. Gives a function that
# waits for its end: exit status, and what it printed.
sub start_script {
    my ($self, $body, %option) = @_;
    my $script = "use strict; use warnings; use WaferMon; my \$m = WaferMon->new(src => 'script',"
        . join(',', map {"$_ => '$option{$_}'"} sort keys %option) . "); $body";
    local $ENV{MONITORING_TCP_PORT} = $self->{port};
    pipe my $read, my $write or die "pipe: $!";
    defined(my $pid = fork) or die "fork: $!";
    if (!$pid) {
        close $read;
        open STDOUT, '>&', $write;
        open STDERR, '>&', $write;
        exec $^X, '-Ilib', '-e', $script;
    }
    close $write;
    return sub {
        my $printed = do { local $/; <$read> };
        return (wait_child($pid), $printed // '');
    };
}

# All there is until the client hangs up; dies over a line that was cut off.
sub rest {
    my ($self) = @_;
    my @frames = $self->frames(9**9);
    die "cut off: '$self->{buffer}'" if length $self->{buffer};
    $self->hang_up;
    return @frames;
}

1;
