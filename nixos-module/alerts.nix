# Alerts over what PgBouncer's exporter says of pgtandem.
{
  groups = [
    {
      name = "pgtandem";
      rules = [
        {
          alert = "PgtandemDown";
          expr = "pgbouncer_up == 0 or up{job=\"pgtandem\"} == 0";
          for = "1m";
          labels.severity = "critical";
          annotations.summary = "pgtandem on {{ $labels.instance }} does not answer.";
        }
        {
          alert = "PgtandemClientsWait";
          expr = "sum by (instance, database) (pgbouncer_pools_client_waiting_connections) > 0";
          for = "2m";
          labels.severity = "warning";
          annotations.summary = "Clients of {{ $labels.database }} wait for a server on {{ $labels.instance }}.";
        }
        {
          alert = "PgtandemWaitIsLong";
          expr = "max by (instance, database) (pgbouncer_pools_client_maxwait_seconds) > 5";
          for = "1m";
          labels.severity = "critical";
          annotations.summary = "A client of {{ $labels.database }} has waited for {{ $value }} s on {{ $labels.instance }}.";
        }
      ];
    }
  ];
}
