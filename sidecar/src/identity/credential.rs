//! What shows who we are as long as we have no certificate: a join token, which is good for one, or a token that
//! Kubernetes projects into the pod and replaces in time, so that its file is read whenever it is needed.

use std::path::PathBuf;

use super::IssueError;

/// Longest token that a control plane looks at.
const MAX_TOKEN: usize = 8 * 1024;

/// One of them, or none where there is a certificate already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credential {
    pub(crate) join_token: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
}

impl Credential {
    /// Good again and again.
    pub(crate) const fn is_renewed(&self) -> bool {
        self.token_file.is_some()
    }

    /// What goes into `authorization: Bearer`.
    ///
    /// # Errors
    /// [`IssueError::TokenFile`]; it may be there later.
    pub(super) async fn bearer(&self) -> Result<String, IssueError> {
        let Some(path) = &self.token_file else {
            return Ok(self.join_token.clone().unwrap_or_default());
        };
        let failed = |why: String| IssueError::TokenFile {
            path: path.clone(),
            why,
        };
        let text = tokio::fs::read_to_string(path)
            .await
            .map_err(|error| failed(error.to_string()))?;
        match text.trim() {
            "" => Err(failed("it is empty".to_owned())),
            token if token.len() > MAX_TOKEN => {
                Err(failed(format!("it is longer than {MAX_TOKEN} bytes")))
            }
            token => Ok(token.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tokens_file_is_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let credential = Credential {
            join_token: None,
            token_file: Some(path.clone()),
        };
        credential.bearer().await.unwrap_err();
        for token in ["one", "two"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            assert_eq!(credential.bearer().await.unwrap(), token);
        }
        std::fs::write(&path, "\n").unwrap();
        credential.bearer().await.unwrap_err();
    }
}
