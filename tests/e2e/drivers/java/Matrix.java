import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;

/** pgjdbc through the pooler. Each step prints "ok STEP" or "failed STEP: reason" on a line of its own. */
public final class Matrix {
    private interface Step {
        void run() throws Exception;
    }

    private static String url() {
        return "jdbc:postgresql://127.0.0.1:" + System.getenv("E2E_PORT") + "/" + System.getenv("E2E_DATABASE");
    }

    private static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("E2E_USER"));
        properties.setProperty("password", System.getenv("E2E_PASSWORD"));
        properties.setProperty("sslmode", "verify-ca");
        properties.setProperty("sslrootcert", System.getenv("E2E_CA"));
        properties.setProperty("connectTimeout", "15");
        properties.setProperty("socketTimeout", "60");
        return DriverManager.getConnection(url(), properties);
    }

    private static void check(boolean condition, String what) {
        if (!condition) {
            throw new IllegalStateException(what);
        }
    }

    private static long number(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), "no row: " + sql);
            return rows.getLong(1);
        }
    }

    private static void run(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    private static void expectState(String state, Step step) throws Exception {
        try {
            step.run();
        } catch (SQLException error) {
            check(state.equals(error.getSQLState()), "SQLSTATE " + error.getSQLState() + ": " + error.getMessage());
            return;
        }
        throw new IllegalStateException("no error, expected " + state);
    }

    private static void connectStep() throws Exception {
        try (Connection connection = connect()) {
            String encrypted = "select count(*) from pg_stat_ssl where pid = pg_backend_pid() and ssl";
            check(number(connection, encrypted) == 1, "ssl");
            check(connection.isValid(5), "isValid");
            check(connection.getMetaData().getDatabaseMajorVersion() >= 15, "version");
        }
    }

    private static void ddlDml() throws Exception {
        try (Connection connection = connect()) {
            run(connection, "drop table if exists made_by_java");
            run(connection, "create table made_by_java (v int primary key, t text)");
            connection.setAutoCommit(false);
            try (PreparedStatement insert = connection.prepareStatement("insert into made_by_java values (?, ?)")) {
                for (int v = 0; v < 500; v++) {
                    insert.setInt(1, v);
                    insert.setString(2, "row " + v);
                    insert.addBatch();
                }
                check(insert.executeBatch().length == 500, "batch");
            }
            connection.commit();
            run(connection, "delete from made_by_java");
            connection.rollback();
            check(number(connection, "select count(*) from made_by_java") == 500, "count");
            connection.commit();
        }
    }

    private static void copyInAndOut() throws Exception {
        try (Connection connection = connect()) {
            run(connection, "truncate made_by_java");
            CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int v = 0; v < 5000; v++) {
                lines.append(v).append('\t').append("x".repeat(50)).append('\n');
            }
            check(copy.copyIn("copy made_by_java from stdin", new StringReader(lines.toString())) == 5000, "in");
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            check(copy.copyOut("copy made_by_java to stdout", out) == 5000, "out");
            check(out.toString(StandardCharsets.UTF_8).equals(lines.toString()), "what came back");
        }
    }

    private static void prepared() throws Exception {
        try (Connection connection = connect();
                PreparedStatement statement = connection.prepareStatement("select ?::int + 1 /* marker */")) {
            for (int n = 0; n < 20; n++) {
                statement.setInt(1, n);
                try (ResultSet rows = statement.executeQuery()) {
                    check(rows.next() && rows.getInt(1) == n + 1, "row " + n);
                }
            }
            check(statement.unwrap(PGStatement.class).isUseServerPrepare(), "not beyond prepareThreshold");
            connection.setAutoCommit(false);
            statement.setInt(1, 1);
            statement.executeQuery().close();
            String marked = "select count(*) from pg_prepared_statements where statement like '%marker */'";
            check(number(connection, marked) > 0, "not prepared on the server");
            connection.commit();
        }
    }

    private static void cancel() throws Exception {
        try (Connection connection = connect(); Connection watcher = connect();
                Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    long deadline = System.currentTimeMillis() + 15000;
                    while (number(watcher, "select count(*) from pg_stat_activity where state = 'active' and query"
                            + " like '%pg_sleep(60)%' and pid <> pg_backend_pid()") == 0
                            && System.currentTimeMillis() < deadline) {
                        Thread.sleep(20);
                    }
                    statement.cancel();
                } catch (Exception error) {
                    error.printStackTrace();
                }
            });
            canceller.start();
            expectState("57014", () -> statement.execute("select pg_sleep(60)"));
            canceller.join();
            statement.setQueryTimeout(1);
            expectState("57014", () -> statement.execute("select pg_sleep(60)"));
            check(number(connection, "select 1") == 1, "usable afterwards");
        }
    }

    private static void error() throws Exception {
        try (Connection connection = connect()) {
            expectState("22012", () -> number(connection, "select 1/0"));
            expectState("42P01", () -> number(connection, "select * from no_such_table"));
            connection.setAutoCommit(false);
            expectState("22012", () -> number(connection, "select 1/0"));
            expectState("25P02", () -> number(connection, "select 1"));
            connection.rollback();
            check(number(connection, "select 1") == 1, "usable afterwards");
        }
    }

    private static void largeResult() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(10);
                long size = 0;
                try (ResultSet rows = statement.executeQuery(
                        "select repeat('x', 1000000) from generate_series(1, 100)")) {
                    while (rows.next()) {
                        size += rows.getString(1).length();
                    }
                }
                check(size == 100_000_000L, "size " + size);
            }
            connection.commit();
        }
    }

    private static boolean attempt(String name, Step step) {
        try {
            step.run();
            System.out.println("ok " + name);
            return true;
        } catch (Exception error) {
            System.out.println("failed " + name + ": " + error);
            error.printStackTrace();
            return false;
        }
    }

    public static void main(String[] arguments) {
        attempt("connect", Matrix::connectStep);
        attempt("ddl_dml", Matrix::ddlDml);
        attempt("copy_in_and_out", Matrix::copyInAndOut);
        attempt("prepared", Matrix::prepared);
        attempt("cancel", Matrix::cancel);
        attempt("error", Matrix::error);
        attempt("large_result", Matrix::largeResult);
    }
}
