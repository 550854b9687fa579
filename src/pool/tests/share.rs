//! A limit of which another node has its share.

use super::check;

#[test]
fn above_the_share_nothing_is_opened_and_what_is_there_goes() {
    check(
        "0 db a limit=4
         0 pool a.x size=10
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         0 checkout a.x c3 -> queued; open s3 p1
         0 ready s3 -> c3 granted s3
         0 release s3 idle
         1 share a of=1 -> close s3 the other node may have more servers now
         1 checkout a.x c4 -> queued
         1 use a -> 2 servers, 1 blocked
         2 release s2 idle -> close s2 the other node may have more servers now
         2 release s1 idle -> c4 granted s1
         3 checkout a.x c5 -> queued
         4 share a of=2
         4 wait -> @4 open s4 p1",
    );
}

#[test]
fn a_share_of_nothing_is_nothing_and_without_a_limit_there_is_no_share() {
    check(
        "0 pool a.x size=10
         0 share a of=0
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 release s1 idle
         1 user _.x limit=5
         1 share _.x of=0 -> close s1 the other node may have more servers now
         1 checkout a.x c2 -> queued
         1 use _.x -> 0 servers, 1 blocked
         2 share _.x of=-
         2 wait -> @2 open s2 p1",
    );
}

#[test]
fn until_a_share_is_told_a_presumed_one_holds() {
    check(
        "0 untold half
         0 db a limit=4
         0 pool a.x size=10
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         0 checkout a.x c3 -> queued
         1 share a of=3
         1 wait -> @1 open s3 p1
         1 ready s3 -> c3 granted s3
         1 checkout a.x c4 -> queued
         2 share a of=-
         2 use a -> 3 servers, 1 blocked
         3 untold all
         3 wait -> @3 open s4 p1",
    );
}

#[test]
fn a_presumed_share_closes_nothing() {
    check(
        "0 db a limit=4
         0 pool a.x size=10
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         0 checkout a.x c3 -> queued; open s3 p1
         0 ready s3 -> c3 granted s3
         1 untold half
         1 release s3 idle
         1 use a -> 3 servers, 0 blocked",
    );
}
