//! Calls made in a [`World`], and what its tables say of them.

use anyhow::Result;
use ledger::UserId;
use ledger_worker::rebuild::{Rebuild, Room};
use ledger_worker::verify::verify;

use crate::{Answer, Client, World};

impl World {
    /// Asks about one call of the client's user, as a proxy does.
    pub async fn call(&self, client: &Client, path: &str) -> Result<Answer> {
        let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", path);
        request.header("X-Forwarded-Method", "GET").send().await
    }

    /// Rows, and counted units, of the user's calls of a category, once all is projected.
    pub async fn rows(&self, subject: &str, category: &str) -> Result<(i64, i64)> {
        self.wait_until_projected().await?;
        let row = sqlx::query_as(
            "SELECT count(*), COALESCE(sum(units) FILTER (WHERE counted), 0) FROM api_usage
             WHERE user_id = (SELECT user_id FROM public.users WHERE external_id = $1) AND category = $2",
        );
        Ok(row.bind(subject).bind(category).fetch_one(self.env.pool()).await?)
    }

    /// All counted units of the user in the summary, and those of analyze, once all is projected.
    pub async fn summary(&self, subject: &str) -> Result<(i64, i64)> {
        self.wait_until_projected().await?;
        let row = sqlx::query_as(
            "SELECT COALESCE(sum(total_calls), 0)::bigint, COALESCE(sum(analyze_calls), 0)::bigint
             FROM monthly_usage_summary
             WHERE user_id = (SELECT user_id FROM public.users WHERE external_id = $1)",
        );
        Ok(row.bind(subject).fetch_one(self.env.pool()).await?)
    }

    /// Differences that `verify` finds between the log, the calls and the sums, once all is projected.
    pub async fn differences(&self) -> Result<Vec<String>> {
        self.wait_until_projected().await?;
        let (database_url, log) = (self.env.database_url(), &self.api.handle.log);
        let rebuild = Rebuild { database_url, log, progress: &|_| (), room: Room::default() };
        let found = verify(&rebuild, None).await?;
        Ok(found.differences.iter().map(|difference| format!("{difference:?}")).collect())
    }

    /// Has the sums mended by what the log says, as `rebuild --only summaries` does.
    pub async fn mend_summaries(&self) -> Result<()> {
        let (database_url, log) = (self.env.database_url(), &self.api.handle.log);
        let rebuild = Rebuild { database_url, log, progress: &|_| (), room: Room::default() };
        rebuild.summaries(false).await?;
        Ok(())
    }

    /// The user of this name at the host.
    pub async fn user_id(&self, subject: &str) -> Result<UserId> {
        let id = sqlx::query_scalar("SELECT user_id FROM public.users WHERE external_id = $1");
        Ok(UserId::new(id.bind(subject).fetch_one(self.env.pool()).await?))
    }

    /// The only value that a query answers, or nothing.
    pub async fn text(&self, query: &str) -> Result<String> {
        let text: Option<String> = sqlx::query_scalar(query).fetch_one(self.env.pool()).await?;
        Ok(text.unwrap_or_default())
    }

    /// Runs a statement on the database, behind everybody's back; it must change something.
    pub async fn tamper(&self, statement: &str) -> Result<()> {
        let done = sqlx::query(statement).execute(self.env.pool()).await?;
        anyhow::ensure!(done.rows_affected() > 0, "{statement} changed nothing");
        Ok(())
    }
}
