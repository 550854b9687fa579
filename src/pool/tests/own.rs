//! Servers of one client's own.

use super::check;

#[test]
fn a_server_of_ones_own_is_lent_to_nobody_else_and_ends_with_its_client() {
    check(
        "0 pool a.x size=2
         0 own a.x c1 -> queued; own s1 p1 c1
         1 checkout a.x c2 -> queued
         1 show a.x -> cl_waiting=2 login=1 maxwait=1
         2 ready s1 -> c1 granted s1; open s2 p1
         2 ready s2 -> c2 granted s2
         3 welcome a.x c3 -> known
         3 checkout a.x c3 -> queued
         4 release s1 close -> open s3 p1
         4 ready s3 -> c3 granted s3",
    );
}

#[test]
fn what_it_said_at_its_login_is_shown_to_nobody_else() {
    check(
        "0 pool a.x size=2
         0 own a.x c1 -> queued; own s1 p1 c1
         0 ready s1 -> c1 granted s1
         1 welcome a.x c2 -> queued; open s2 p1
         1 ready s2 -> c2 welcome",
    );
}

#[test]
fn an_idle_server_of_the_pool_gives_way() {
    check(
        "0 pool a.x size=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         1 release s1 idle
         2 release s2 idle
         3 own a.x c3 -> queued; close s1 evicted; own s3 p1 c3
         3 ready s3 -> c3 granted s3
         4 checkout a.x c4 -> granted s2",
    );
}

#[test]
fn as_many_give_way_as_a_smaller_pool_needs_and_none_in_vain() {
    check(
        "0 pool a.x size=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         1 release s2 idle
         1 pool a.x size=1
         1 own a.x c3 -> queued
         1 wait -> @1 close s2 too many servers in the pool
         2 release s1 idle -> close s1 evicted; own s3 p1 c3",
    );
}

#[test]
fn a_server_that_comes_back_gives_way_to_whoever_waited_longest() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 checkout a.x c2 -> queued
         2 own a.x c3 -> queued
         3 checkout a.x c4 -> queued
         4 release s1 idle -> c2 granted s1
         5 release s1 idle -> close s1 evicted; own s2 p1 c3
         5 ready s2 -> c3 granted s2
         6 release s2 close -> open s3 p1
         6 ready s3 -> c4 granted s3",
    );
}

#[test]
fn the_limits_of_database_and_user_hold() {
    check(
        "0 db a limit=1
         0 pool a.x size=5
         0 pool a.y size=5
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 own a.y c2 -> queued
         2 release s1 idle -> close s1 evicted; own s2 p2 c2
         2 ready s2 -> c2 granted s2
         3 own a.x c3 -> queued
         4 release s2 close -> own s3 p1 c3",
    );
}

#[test]
fn a_refused_login_is_told_to_its_client_alone() {
    check(
        "0 pool a.x size=5
         0 own a.x c1 -> queued; own s1 p1 c1
         0 checkout a.x c2 -> queued
         1 fail s1 28000 no replication for you -> c1 refused no replication for you; open s2 p1
         1 ready s2 -> c2 granted s2
         2 own a.x c3 -> queued; own s3 p1 c3
         2 fail s3 28000 nor you -> c3 refused nor you
         2 own a.x c4 -> queued; own s4 p1 c4",
    );
}

#[test]
fn a_server_that_cannot_be_reached_is_tried_again() {
    check(
        "0 pool a.x size=5
         0 global retry=15
         0 own a.x c1 -> queued; own s1 p1 c1
         1 fail s1 connect refused
         1 wait
         15 wait -> @15 own s2 p1 c1
         16 fail s2 57P03 starting up
         30 wait -> @30 own s3 p1 c1
         30 ready s3 -> c1 granted s3",
    );
}

#[test]
fn who_leaves_while_the_server_logs_in_leaves_it_to_nobody() {
    check(
        "0 pool a.x size=1
         0 own a.x c1 -> queued; own s1 p1 c1
         0 leave c1 -> true
         1 checkout a.x c2 -> queued
         1 ready s1 -> close s1 replication client was closed; open s2 p1
         1 ready s2 -> c2 granted s2
         2 release s2 close
         2 own a.x c3 -> queued; own s3 p1 c3
         2 ready s3 -> c3 granted s3
         2 release s3 unused -> close s3 replication client was closed",
    );
}

#[test]
fn paused_and_frozen_pools_open_none() {
    check(
        "0 pool a.x size=5
         0 pause a
         0 own a.x c1 -> queued
         1 resume a -> true
         1 wait -> @1 own s1 p1 c1
         1 pause a -> close s1 pause mode
         2 resume a -> true
         2 wait -> @2 own s2 p1 c1
         2 ready s2 -> c1 granted s2
         3 freeze
         3 own a.x c2 -> queued
         4 thaw -> own s3 p1 c2",
    );
}
