#!/bin/sh
# What Kubernetes starts in an executor's pod, as Spark's own image does: its scheduler gives the argument `executor`, and
# all that it has to say in the environment. The image of PySpark from PyPI has no such script.
set -eu
[ "${1:-}" = executor ] || exec "$@"
# SPARK_JAVA_OPT_0, SPARK_JAVA_OPT_1 and so on, each a whole argument
set --
number=0
while eval "[ -n \"\${SPARK_JAVA_OPT_$number+given}\" ]"; do
    eval "set -- \"\$@\" \"\$SPARK_JAVA_OPT_$number\""
    number=$((number + 1))
done
exec java "$@" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$SPARK_HOME/jars/*" \
    org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
    --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
    --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
    --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
