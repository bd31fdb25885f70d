"""The batch of batch.py as a DAG of Apache Airflow: put both files into its folder `dags/`.

Airflow's own retries take the place of the script's: a killed task is started again and goes on where it stopped. What
makes no sense fails at once, and unreadable pictures leave a warning in the log of a task that succeeded.
Needs: pip install apache-airflow "miil21k[embedded]" on the workers. Written for Airflow 2.9 and later.
"""

import logging
from datetime import datetime, timedelta

from airflow.decorators import dag, task
from airflow.exceptions import AirflowException, AirflowFailException
from batch import GOOD, NO_SENSE, SOME_FAILED, run_batch


@dag(schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def photographs() -> None:
    @task(retries=3, retry_delay=timedelta(minutes=5))
    def answer(ds: str | None = None) -> str:
        rows = f"/data/answers/{ds}.jsonl"
        code = run_batch(f"/data/photos/{ds}", rows, tries=1)
        if code == NO_SENSE:
            raise AirflowFailException("The request makes no sense: see the log above.")  # never tried again
        if code == SOME_FAILED:
            logging.getLogger(__name__).warning("Some pictures could not be read: see the rows with status error.")
        elif code != GOOD:
            raise AirflowException("Interrupted: the next try goes on where this one stopped.")
        return rows

    answer()


photographs()
